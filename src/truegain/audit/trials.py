"""Every probe put to the reward, block of problems by block, and the scale on which its scores are read."""

from __future__ import annotations

import random
import statistics
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from truegain.audit.probes import FAMILIES, Attempt, Reference, deserved
from truegain.audit.subject import Said, Subject
from truegain.core.types import Problem

FIRST, BLOCK = 4, 16
LATE_ENOUGH = 3
"""Slow answers or passed deadlines after which a strategy is asked no more: the verdict is clear by then."""
TEDIOUS = 1.0
"""Seconds from which an answer is slow."""
HARD = "hostile"


@dataclass(frozen=True)
class Trial:
    """One completion that was scored. ``chance``: it should be wrong, and states the right answer by chance."""

    at: int
    family: str
    attempt: Attempt
    said: Said
    chance: bool


@dataclass(frozen=True)
class Scale:
    """Where right and wrong answers score: their medians, and the ``cut`` between them.

    ``told`` is False where right answers score no higher than wrong ones: then nothing is right.
    """

    top: float
    floor: float
    cut: float
    told: bool

    def right(self, said: Said) -> bool:
        """Whether it was scored as right."""
        return said.value is not None and said.value >= self.cut


def attempts(problem: Problem, ref: Reference, family: str, seed: int) -> list[Attempt]:
    """The attempts of a family at a problem, the same for the same seed."""
    return FAMILIES[family][0](problem, ref, random.Random(f"{seed}\x1f{family}\x1f{problem.id}"))


def collect(
    subject: Subject, problems: Sequence[Problem], refs: Sequence[Reference], seed: int, seconds: float
) -> Iterator[tuple[int, int, list[Trial]]]:
    """Ask about every attempt at every problem; yields (done, in all, new trials).

    It ends after ``seconds``, but not before a first block of problems is asked about the references. The hostile texts
    come last, one by one, as each may take a deadline of its own, and have a quarter of the time on top.
    """
    ends = time.monotonic() + seconds
    late: Counter[str] = Counter()
    total = len(problems) * sum(len(attempts(problems[0], refs[0], family, seed)) for family in FAMILIES)
    done = 0
    for families, until in ((FAMILIES.keys() - {HARD}, ends), ({HARD}, ends + seconds / 4)):
        for block in _blocks(len(problems)):
            for family in (name for name in FAMILIES if name in families):
                if time.monotonic() >= until and done:
                    break
                asked = [(at, one) for at in block for one in attempts(problems[at], refs[at], family, seed)]
                open_ = [(at, one) for at, one in asked if late[one.strategy] < LATE_ENOUGH]
                new = _asked(subject, family, open_, problems, refs)
                late.update(trial.attempt.strategy for trial in new if tedious(trial))
                done += len(asked)
                yield min(done, total), total, new


def _blocks(count: int) -> list[range]:
    """Few problems first, so that what is slow is soon given up."""
    starts = [0, *range(FIRST, count, BLOCK)]
    return [range(start, min(end, count)) for start, end in zip(starts, [*starts[1:], count], strict=True)]


def _asked(
    subject: Subject, family: str, asked: Sequence[tuple[int, Attempt]], problems: Sequence[Problem],
    refs: Sequence[Reference],
) -> list[Trial]:  # fmt: skip
    rows = [(problems[at], one.text) for at, one in asked]
    said = subject.ask(rows, "alone", size=1) if family == HARD else subject.ask(rows)
    return [Trial(at, family, one, s, deserved(one, refs[at])) for (at, one), s in zip(asked, said, strict=True)]


def tedious(trial: Trial) -> bool:
    """Whether a completion made to be hard was slow, or any passed the deadline."""
    return trial.said.failure == "late" or (trial.family == HARD and trial.said.seconds > TEDIOUS)


def given_up(trials: Sequence[Trial]) -> set[str]:
    """Strategies that were asked no more, as they took long again and again."""
    slow = Counter(trial.attempt.strategy for trial in trials if tedious(trial))
    return {name for name, count in slow.items() if count >= LATE_ENOUGH}


def scale(trials: Sequence[Trial], cut: float | None) -> Scale:
    """The scale of the scores; ``cut`` fixes it, else it lies half-way between the medians of right and wrong."""
    right = [t.said.value for t in trials if t.family == "references" and t.said.value is not None]
    wrong = [t.said.value for t in trials if _in_form(t) and t.said.value is not None]
    if not wrong:
        wrong = [t.said.value for t in trials if t.family == "empty" and t.said.value is not None]
    floor = statistics.median(wrong) if wrong else 0.0
    top = statistics.median(right) if right else (floor if cut is None else max(cut, floor))
    told = top - floor > 1e-9 * max(1.0, abs(top), abs(floor))
    return Scale(top, floor, (top + floor) / 2 if cut is None else cut, told or (cut is not None and not right))


def _in_form(trial: Trial) -> bool:
    return trial.family == "wrong answers" and not trial.chance
