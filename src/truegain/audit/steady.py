"""Whether a reward says the same again: twice, in a fresh process, in another batch, off the main thread; how fast."""

from __future__ import annotations

import random
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from truegain.audit.checks import Check, check, shown
from truegain.audit.probes import Reference, question
from truegain.audit.subject import BATCH, How, Row, Said, Subject
from truegain.audit.trials import Scale, Trial
from truegain.audit.verdicts import SKIPPED, UNFIT, UNSURE, Rules, judge
from truegain.core.types import Problem

KEPT = ("references", "wrong answers", "junk", "format")
"""Families whose completions are asked again."""
PER_PROBLEM = 4
CLOSE = 1e-4
"""How far two scores may lie apart, as a share of the scale, and still be the same: sums in another order round."""
TITLES = {
    "repeat": "The same completion twice gets the same score",
    "state": "A fresh process gives the scores of one in use",
    "batch": "Neighbours and order in a batch change no score",
    "threads": "Off the main thread, four at a time, scores are the same",
}


@dataclass(frozen=True)
class Steady:
    """The checks, and what was said of each completion when it was asked alone."""

    checks: Sequence[Check]
    alone: Sequence[Said]


def asked_again(trials: Sequence[Trial], problems: int, seed: int) -> list[Trial]:
    """A reference and some wrong completions of each of the first ``problems`` problems that were judged in time."""
    rng = random.Random(f"{seed}\x1fagain")
    found: list[Trial] = []
    for at in range(problems):
        own = [t for t in trials if t.at == at and t.family in KEPT and t.said.failure != "late"]
        first = [t for t in own if t.family == "references"]
        rest = [t for t in own if t.family != "references"]
        found += first + rng.sample(rest, min(PER_PROBLEM - 1, len(rest)))
    return found


def steady(
    subject: Subject, kept: Sequence[Trial], problems: Sequence[Problem], refs: Sequence[Reference],
    found: Scale, rules: Rules, seed: int,
) -> Iterator[str | Steady]:  # fmt: skip
    """Names of the checks as they begin, then all of them."""
    rows: list[Row] = [(problems[trial.at], trial.attempt.text) for trial in kept]
    yield TITLES["repeat"]
    first, again = (subject.ask(rows, size=BATCH) for _ in range(2))
    checks = [_same("repeat", kept, first, again, "the second time", problems, refs, found, rules)]
    moved = checks[0]["verdict"] == UNFIT
    yield TITLES["state"]
    with subject.fresh() as other:
        fresh = other.ask(rows, size=BATCH)
    checks.append(_same("state", kept, first, fresh, "in a fresh process", problems, refs, found, rules, moved))
    yield TITLES["batch"]
    order = random.Random(f"{seed}\x1forder").sample(range(len(rows)), len(rows))
    mixed = dict(zip(order, subject.ask([rows[i] for i in order], size=BATCH + 3), strict=True))
    shuffled = [mixed[i] for i in range(len(rows))]
    alone = _how(subject, rows, "alone")
    both = [b if _apart(a, b, found) else c for a, b, c in zip(first, shuffled, alone, strict=True)]
    checks.append(_same("batch", kept, first, both, "in another batch", problems, refs, found, rules, moved))
    yield TITLES["threads"]
    off = _how(subject, rows, "threads")
    checks.append(_same("threads", kept, alone, off, "off the main thread", problems, refs, found, rules, moved))
    yield Steady(checks, alone)


def _how(subject: Subject, rows: Sequence[Row], how: How) -> list[Said]:
    return subject.ask(rows, how)


def _apart(a: Said, b: Said, found: Scale) -> bool:
    if a.value is None or b.value is None:
        return (a.value is None) != (b.value is None)
    return abs(a.value - b.value) > CLOSE * max(abs(found.top - found.floor), 1e-6, CLOSE * abs(a.value))


def _same(
    ident: str, kept: Sequence[Trial], before: Sequence[Said], after: Sequence[Said], where: str,
    problems: Sequence[Problem], refs: Sequence[Reference], found: Scale, rules: Rules, moved: bool = False,
) -> Check:  # fmt: skip
    title = TITLES[ident]
    if moved:
        return check(ident, title, SKIPPED, "its scores change from call to call, so nothing else can be told")
    hit = [i for i, (a, b) in enumerate(zip(before, after, strict=True)) if _apart(a, b, found)]
    per: dict[int, float] = {trial.at: 0.0 for trial in kept}
    per |= {kept[i].at: 1.0 for i in hit}
    rate = judge(list(per.values()), rules)
    if not hit:
        more = f"; {rate.of} problems are too few to tell" if rate.verdict == UNSURE else ""
        return check(ident, title, rate.verdict, f"{len(kept)} completions, no difference{more}", rate=rate)
    said = f"{len(hit)} of {len(kept)} scores differ {where}"
    lost = [i for i in hit if found.right(before[i]) and not found.right(after[i])]
    silent = [i for i in lost if after[i].value is not None]
    if silent:
        said += f"; {len(silent)} right answers turn wrong, silently"
    i = (silent or lost or hit)[0]
    trial, now = kept[i], after[i]
    told = f"{_number(before[i])} at first, {_number(now)} {where}"
    worst = shown(
        question(problems[trial.at]), trial.attempt.text, refs[trial.at].answer, now.value, trial.attempt.strategy, told
    )
    return check(ident, title, rate.verdict, said, rate=rate, worst=worst)


def _number(said: Said) -> str:
    return f"{said.value:.4g}" if said.value is not None else f"none ({said.why})"


def latency(alone: Sequence[Said], rules: Rules) -> Check:
    """Seconds that one completion takes, asked alone."""
    took = sorted(said.seconds for said in alone if said.seconds == said.seconds)
    title = f"One completion takes at most {rules.slow:g} s"
    if len(took) < 2:
        return check("latency", title, UNSURE, "no call was timed")
    rate = judge([float(s > rules.slow) for s in took], rules, tolerated=rules.slow_share, bound=2 * rules.slow_share)
    at = {name: took[min(len(took) - 1, int(share * len(took)))] for name, share in (("p50", 0.5), ("p95", 0.95))}
    said = f"median {milliseconds(statistics.median(took))}, 95 % within {milliseconds(at['p95'])}"
    return check("latency", title, rate.verdict, said, rate=rate) | {"seconds": {**at, "max": took[-1]}}


def milliseconds(seconds: float) -> str:
    """``0.04 ms``, ``12 ms`` or ``2.1 s``."""
    return f"{seconds:.2g} s" if seconds >= 1 else f"{1000 * seconds:.2g} ms"
