"""Random expressions of as many operations as the level says, so fresh that nobody can have learned them by heart.

Content: ``(3+4^2)*7``. Its numbers are whole ones up to 100, squares up to 20^2, cubes up to 10^3 and fractions; its
operations ``+ - * /``, on any tree. Every value on the way is a fraction of at most four digits above and below.
Besides right or wrong there is partial credit, ``score``, for answers that come near. The prompts begin as those of
the calculator task do, so that the embedded model, which never saw this one, does sums here that it learned there.
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping
from fractions import Fraction
from typing import Any

from truegain.tasks._answers import number
from truegain.tasks.arithmetic import MAX_CHARS, apply, parse, value, written
from truegain.tasks.generated import Rules, Step, weave

HIGH, BOUND, MAX_LEVEL, EPS = 100, 9999, 12, 1e-6
Node = tuple[str, Fraction]
_POWER = re.compile(r"([0-9]{1,3})\^([23])")


def _plain(content: str) -> str:
    """The expression without powers: ``(4*4)`` for ``4^2``."""
    return _POWER.sub(lambda found: "(" + "*".join([found[1]] * int(found[2])) + ")", content)


def _value(content: str) -> Fraction:
    return value(parse(_plain(content)))


def _atom(rng: random.Random) -> Node:
    kind = rng.random()
    if kind < 0.1:
        base = rng.randint(2, 20)
        return f"{base}^2", Fraction(base**2)
    if kind < 0.15:
        base = rng.randint(2, 10)
        return f"{base}^3", Fraction(base**3)
    if kind < 0.25:
        top, bottom = rng.randint(1, 9), rng.randint(2, 9)
        return f"({top}/{bottom})", Fraction(top, bottom)
    whole = rng.randint(0, HIGH)
    return str(whole), Fraction(whole)


def _fits(found: Fraction) -> bool:
    return abs(found.numerator) <= BOUND and found.denominator <= BOUND


def _grow(rng: random.Random, operations: int) -> tuple[str, Fraction] | None:
    """A tree of so many operations, each of its subtrees in parentheses; None where no operation stays in bounds."""
    if operations == 0:
        return _atom(rng)
    left = rng.randrange(operations)
    parts = [_grow(rng, left), _grow(rng, operations - 1 - left)]
    if parts[0] is None or parts[1] is None:
        return None
    (a, x), (b, y) = parts[0], parts[1]
    a, b = (f"({text})" if n else text for text, n in ((a, left), (b, operations - 1 - left)))
    for sign in rng.sample("+-*/", 4):
        if sign == "/" and y == 0:
            continue
        found = apply(sign, x, y)
        if _fits(found):
            return f"{a}{sign}{b}", found
    return None


def _draw(rng: random.Random, level: int) -> str | None:
    found = _grow(rng, level)
    return None if found is None or len(_plain(found[0])) > MAX_CHARS else found[0]


def partial_credit(given: Fraction, wanted: Fraction) -> float:
    """``1 - min(d, 1) / 2 - min(d / (|b| + 1e-6), 1) / 2`` with d the distance of an answer from the right one, b.

    1 exactly where they are equal (as far as a float tells), falling with the distance, 0 where it is at least 1 and at
    least the size of b. Source: Wu et al. 2025, arXiv 2507.10532, section 4.

    >>> [round(partial_credit(Fraction(a), Fraction(10)), 6) for a in ("10", "21/2", "9", "0")]
    [1.0, 0.725, 0.45, 0.0]
    """
    distance = float(min(abs(given - wanted), Fraction(10) ** 12))
    return 1 - min(distance, 1.0) / 2 - min(distance / (abs(float(wanted)) + EPS), 1.0) / 2


def _answer(content: str) -> str:
    return written(_value(content))


def _instruction(content: str) -> str:
    return f"What is {content}? Answer with a number or a fraction."


def _correct(content: str, text: str) -> bool:
    return number(text) == _value(content)


def _facts(content: str, answer: str | None) -> Mapping[str, Any]:
    given = None if answer is None else number(answer)
    return {"score": 0.0 if given is None else partial_credit(given, _value(content))}


def _think(content: str, draw: random.Random) -> str:
    """One line per operation, innermost first: ``3+16=19``."""
    steps: list[Step] = []

    def walk(tree: Any) -> Fraction:
        if isinstance(tree, int):
            return Fraction(tree)
        x, y = walk(tree[1]), walk(tree[2])
        found = apply(tree[0], x, y)
        says = f"{_shown(x)}{tree[0]}{_shown(y)}="
        slip = found + draw.choice((-1, 1))
        steps.append(Step(f"{says}{written(found)}", f"{says}{written(slip)}", f"{says}{written(found)}"))
        return found

    walk(parse(_plain(content)))
    return weave(steps, draw)


def _shown(x: Fraction) -> str:
    """A number inside an expression: in parentheses unless it is a plain one."""
    return written(x) if x.denominator == 1 and x >= 0 else f"({written(x)})"


def _longest(level: int, style: str) -> int:
    # An answer has at most a sign, four digits, a bar and four digits, and two marks; a line two numbers and an answer.
    line, lines = 2 * 12 + 1 + 1 + 10 + 1, 4 * level + 3
    return 12 + (0 if style == "direct" else (lines + 2) * line + 24)


RULES = Rules(
    name="calculation",
    word="calc",
    levels=(1, MAX_LEVEL),
    default={"direct": 1, "trace": 2},
    draw=_draw,
    key=str,
    answer=_answer,
    correct=_correct,
    think=_think,
    instruction=_instruction,
    longest=_longest,
    facts=_facts,
    supplies=("score",),
)
