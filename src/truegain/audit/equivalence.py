"""Equal answers in different spellings: whether a reward of mathematics takes them for equal, whichever is the key."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from fractions import Fraction

from truegain.audit.checks import Check, check, shown
from truegain.audit.probes import question
from truegain.audit.subject import Row, Said, Subject
from truegain.audit.trials import Scale
from truegain.audit.verdicts import FIT, SKIPPED, UNFIT, UNSURE, Rules, judge
from truegain.core.types import Problem
from truegain.tasks._answers import number

PAIRS = 120
SYMBOLIC: tuple[tuple[str, ...], ...] = (
    (r"\sqrt{8}", r"2\sqrt{2}"),
    ("x+1", "1+x"),
    (r"(x+1)^2", r"x^2+2x+1"),
    ("(1,2)", "(1, 2)"),
    (r"\frac{\pi}{2}", r"\pi/2"),
    ("2^3", "8"),
)
"""Equal expressions that need more than arithmetic on numbers; asked where the checker claims mathematics."""
UNEQUAL: tuple[tuple[str, str], ...] = (
    ("1/2", "1/3"),
    ("0.5", "0.05"),
    (r"\frac12", r"\frac21"),
    ("-3/4", "3/4"),
    ("x+1", "x-1"),
    ("(1,2)", "(2,1)"),
    (r"2\sqrt{2}", r"\sqrt{2}"),
    ("8", "2^4"),
)
TITLES = {
    "equal": "Equal answers in other spellings score as right",
    "unequal": "Unequal answers that look alike score as wrong",
    "symmetry": "It matters not which of two answers is the key",
}


def spellings(value: Fraction) -> list[str]:
    r"""Ways to write a number: ``1/2``, ``\frac{1}{2}``, ``\dfrac{1}{2}``, ``\frac12``, ``0.5``, ``0.50``.

    >>> spellings(Fraction(1, 2))
    ['1/2', '\\frac{1}{2}', '\\dfrac{1}{2}', '\\frac12', '0.5', '0.50']
    """
    sign, top, bottom = "-" if value < 0 else "", abs(value.numerator), value.denominator
    if bottom == 1:
        return [f"{sign}{top}", f"{sign}{top}.0", f"{sign}\\frac{{{2 * top}}}{{2}}"]
    found = [f"{sign}{top}/{bottom}", f"{sign}\\frac{{{top}}}{{{bottom}}}", f"{sign}\\dfrac{{{top}}}{{{bottom}}}"]
    if top < 10 and bottom < 10:
        found.append(f"{sign}\\frac{top}{bottom}")
    if not set(_primes(bottom)) - {2, 5}:
        decimal = f"{abs(float(value)):.10f}".rstrip("0")
        found += [sign + decimal, sign + decimal + "0"]
    return found


def _primes(n: int) -> list[int]:
    found, divisor = list[int](), 2
    while n > 1:
        while n % divisor == 0:
            found.append(divisor)
            n //= divisor
        divisor += 1
    return found


def mathematical(answers: Sequence[str | None]) -> bool:
    """Whether the answers are mathematics that can be spelled in several ways: fractions, decimals or LaTeX."""
    known = [answer for answer in answers if answer]
    return any("\\" in a or (number(a) or Fraction(0)).denominator > 1 for a in known)


def pairs(seed: int, symbolic: bool) -> list[tuple[str, str]]:
    """Pairs (key, answer) of equal answers, both ways round, the same for the same seed."""
    rng = random.Random(f"{seed}\x1fequal")
    values = [Fraction(1, 2), Fraction(-3, 4)]
    while len(values) < 12:
        value = Fraction(rng.choice((1, -1)) * rng.randint(1, 30), rng.choice((1, 2, 3, 4, 5, 8, 9, 20)))
        values += [value] if value not in values else []
    found = [pair for value in values for pair in itertools.permutations(spellings(value), 2)]
    kept = sorted(rng.sample(range(len(found)), min(PAIRS, len(found))))
    both = {tuple(found[i]) for i in kept} | {tuple(reversed(found[i])) for i in kept}
    more = [pair for group in SYMBOLIC for pair in itertools.permutations(group, 2)] if symbolic else []
    return [pair for pair in found if pair in both] + more


def skipped(why: str) -> list[Check]:
    """The checks where they do not apply."""
    return [check(ident, title, SKIPPED, why, required=False) for ident, title in TITLES.items()]


def equivalence(
    subject: Subject, problems: Sequence[Problem], complete: Callable[[str], str], found: Scale, rules: Rules,
    seed: int, symbolic: bool,
) -> list[Check]:  # fmt: skip
    """Equal pairs, unequal ones, and whether both directions of a pair agree. Each pair is one case of the rate."""
    equal = pairs(seed, symbolic)
    near = [pair for a, b in UNEQUAL for pair in ((a, b), (b, a)) if symbolic or number(a) is not None]
    said = subject.ask([_row(problems[i % len(problems)], key, complete(a)) for i, (key, a) in enumerate(equal + near)])
    right = dict(zip(equal, said, strict=False))
    wrong = dict(zip(near, said[len(equal) :], strict=True))
    refused = [float(not found.right(one)) for one in right.values()]
    taken = [float(found.right(one)) for one in wrong.values()]
    both = [(k, a) for k, a in equal if (a, k) in right and k < a]
    turned = [float(found.right(right[k, a]) != found.right(right[a, k])) for k, a in both]
    return [
        _check("equal", refused, list(right.items()), "are refused", problems, complete, rules),
        _check("unequal", taken, list(wrong.items()), "are taken as right", problems, complete, rules, exact=True),
        _check("symmetry", turned, [(p, right[p]) for p in both], "depend on it", problems, complete, rules),
    ]


def _row(problem: Problem, key: str, completion: str) -> Row:
    """The problem with another key, in every column that a reward reads it from."""
    meta = {**problem.meta, **{name: key for name in ("answer", "solution") if name in problem.meta}}
    if isinstance(meta.get("reward_model"), dict):
        meta["reward_model"] = {**meta["reward_model"], "ground_truth": key}
    return replace(problem, answer=key, meta=meta), completion


def _check(
    ident: str, broken: Sequence[float], cases: Sequence[tuple[tuple[str, str], Said]], what: str,
    problems: Sequence[Problem], complete: Callable[[str], str], rules: Rules, *, exact: bool = False,
) -> Check:  # fmt: skip
    rate, hit = judge(broken, rules), [i for i, value in enumerate(broken) if value]
    if not hit:
        # These few cases are all there are, no sample: without a fault there is nothing left to tell.
        verdict = FIT if exact or rate.verdict != UNSURE else UNSURE
        return check(ident, TITLES[ident], verdict, f"none of {len(broken)} pairs", rate=rate)
    (key, answer), said = cases[hit[0]]
    worst = shown(
        question(problems[0]), complete(answer), key, said.value, f"{answer} where the key is {key}", said.why
    )
    verdict = UNFIT if exact else rate.verdict
    names = [{"strategy": f"{cases[i][0][1]} where the key is {cases[i][0][0]}"} for i in hit[:6]]
    told = f"{len(hit)} of {len(broken)} pairs {what}, such as {answer} where the key is {key}"
    return check(ident, TITLES[ident], verdict, told, rate=rate, worst=worst, strategies=names)
