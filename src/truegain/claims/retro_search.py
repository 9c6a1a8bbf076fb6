"""Retro-Search on a reasoner that keeps changing its mind: what a student of the revised traces gains."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from functools import partial
from types import SimpleNamespace
from typing import Any

from truegain.claims.claim import Claim
from truegain.core.forms import Decode
from truegain.core.types import Problem, Rollout
from truegain.recipes.retro_search import retro_search

# A reasoner has to make 4 steps in a row. Each line goes on, changes its mind and begins anew, or answers.
NEED, TRACES, TESTED, LINES = 4, 400, 10_000, 80
KNOWS, GUESSES = 0.97, 0.2
GO, WAIT, ANSWER = "go", "wait", "so"
Odds = Sequence[tuple[float, float, float]]  # by progress: the chances of the three
START: Odds = [(0.52, 0.40, 0.08)] * NEED + [(0.0, 0.7, 0.3)]


def _continued(lines: list[str], odds: Odds, rng: random.Random) -> Rollout:
    """A trace that goes on from these lines until it answers, or is cut off and wrong."""
    lines, done = list(lines), 0
    for line in lines:
        done = done + 1 if line == GO else 0
    while len(lines) < LINES:
        done = min(done, NEED)
        line = rng.choices((GO, WAIT, ANSWER), odds[done])[0]
        lines.append(line)
        if line == ANSWER:
            break
        done = done + 1 if line == GO else 0
    right = lines[-1] == ANSWER and rng.random() < (KNOWS if done == NEED else GUESSES)
    text = "".join(f"{line}\n" for line in lines)
    ids = tuple(text.encode())
    return Rollout(Problem("a", "a"), (), ids, (0.0,) * len(ids), text, "eos", (), facts={"correct": float(right)})


class _Loop:
    """What the search asks of the loop; counts the lines that it draws."""

    def __init__(self, rng: random.Random) -> None:
        self.rng, self.drawn = rng, 0

    def fork(self, places: Sequence[tuple[Rollout, int]], samples: int, *, role: str) -> list[Rollout]:
        found: list[Rollout] = []
        for trace, cut in places:
            begun = bytes(trace.ids[:cut]).decode().splitlines()
            found += [_continued(begun, START, self.rng) for _ in range(samples)]
            self.drawn += sum(r.text.count("\n") - len(begun) for r in found[-samples:])
        return found


def _student(traces: Sequence[Rollout]) -> Odds:
    """The most likely reasoner of the same kind: shares of what was done at each progress."""
    counts = [[0.0, 0.0, 0.0] for _ in range(NEED + 1)]
    for trace in traces:
        done = 0
        for line in trace.text.splitlines():
            counts[min(done, NEED)][(GO, WAIT, ANSWER).index(line)] += 1
            done = done + 1 if line == GO else 0
    return [(row[0], row[1], row[2]) if sum(row) else START[n] for n, row in enumerate(counts)]


def _measured(traces: Sequence[Rollout], name: str, seed: int) -> dict[str, float]:
    odds, rng = _student(traces), random.Random(seed + 1000)
    said = [_continued([], odds, rng) for _ in range(TESTED)]
    return {
        f"{name}: accuracy": sum(float(r.facts["correct"]) for r in said) / TESTED,
        f"{name}: lines": sum(r.text.count("\n") for r in said) / TESTED,
    }


def _one_seed(seed: int) -> Mapping[str, float]:
    rng = random.Random(seed)
    raw = [_continued([], START, rng) for _ in range(TRACES)]
    (decode, _) = retro_search(words=(WAIT,))
    assert isinstance(decode, Decode) and isinstance(decode.search, tuple)
    loop, policy = _Loop(rng), SimpleNamespace(decode=lambda ids: bytes(ids).decode())
    search: partial[Any] = partial(decode.search[0], opening="", closing="")
    revised: list[Rollout] = search({"policy": SimpleNamespace(policy=policy)}, loop, raw)
    # Of traces that were right before, what is left of their steps.
    everything: list[Rollout] = search({"policy": SimpleNamespace(policy=policy)}, _Loop(rng), raw, keep="all")
    before = [(old, new) for old, new in zip(raw, everything, strict=True) if old.facts["correct"] == 1.0]
    steps = [sum(r.text.count("\n") for r in side) for side in zip(*before, strict=True)]
    lost = sum(new.facts["correct"] != 1.0 for _, new in before)
    # The other arms may draw as many lines: more traces of the same kind.
    pool, lines = list(raw), loop.drawn
    while lines > 0:
        pool.append(_continued([], START, rng))
        lines -= pool[-1].text.count("\n")
    right = [r for r in pool if r.facts["correct"] == 1.0]
    shortest = sorted(right, key=lambda r: len(r.ids))[: len(revised)]
    arms = _measured(right, "raw", seed) | _measured(revised, "revised", seed)
    counted = {"traces: raw": len(right), "traces: revised": len(revised), "right answers lost": lost}
    return {**arms, **_measured(shortest, "shortest", seed), **counted, "steps left": steps[1] / steps[0]}


def _effect(arms: Mapping[str, float]) -> float:
    shorter = 0.75 - arms["steps left"] - arms["right answers lost"]
    student = 1 - arms["revised: lines"] / arms["raw: lines"]
    return min(shorter, student, arms["revised: accuracy"] - arms["raw: accuracy"] + 0.01)


CLAIM = Claim(
    name="retro-search",
    system="retro-search",
    states="Revised traces that were right before have more than 25 % fewer steps and lose no right answer, and a "
    "student of the revised traces is shorter than a student of the raw right traces that the same sampling gives, and "
    "at most 1 point less accurate: the smallest of the margins is above 0. A student of the shortest right traces "
    "stands beside them.",
    unit="smallest margin",
    one_seed=_one_seed,
    effect=_effect,
    threshold=0.0,
)
