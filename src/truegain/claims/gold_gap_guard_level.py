"""The guard's rate of false alarms over many looks at the same problems, and what it sees of a run that falls.

Every run has 20 looks at the same 128 problems. A problem's score is 0 or 1; half of the time its draw is that of the
problem itself, the same at every look (hard problems stay hard), else it is fresh. Flat runs stay at accuracy 0.5,
rising ones go from 0.3 to 0.7; falling ones rise from 0.3 to 0.6 and come down to 0.35. 200 runs of each per seed.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from truegain.claims.claim import Claim
from truegain.methods.guard import GapLook, judge_look

LEVEL, PROBLEMS, RUNS, SAME = 0.05, 128, 200, 0.5
RUN = {
    "false alarms, flat": np.full(20, 0.5),
    "false alarms, rising": np.linspace(0.3, 0.7, 20),
    "caught, falling": np.r_[np.linspace(0.3, 0.6, 8), np.linspace(0.6, 0.35, 8), np.full(4, 0.35)],
}


def alarmed(accuracy: np.ndarray, rng: np.random.Generator) -> bool:
    """Whether a run with this accuracy at its looks raises an alarm."""
    own = rng.random(PROBLEMS)
    looks: list[GapLook] = []
    scores = np.empty((0, PROBLEMS))
    for step, chance in enumerate(accuracy):
        draw = np.where(rng.random(PROBLEMS) < SAME, own, rng.random(PROBLEMS))
        now = (draw < chance).astype(np.float64)
        looks.append(judge_look(looks, step, now, float(step), scores, level=LEVEL))
        if looks[-1].alarm:
            return True
        scores = np.concatenate([scores, now[None]])
    return False


def _one_seed(seed: int) -> Mapping[str, float]:
    rng = np.random.default_rng(seed)
    return {name: sum(alarmed(accuracy, rng) for _ in range(RUNS)) / RUNS for name, accuracy in RUN.items()}


CLAIM = Claim(
    name="gold-gap-guard-level",
    system="gold-gap-guard",
    states="Over 20 looks at the same 128 problems, 2000 flat and 2000 rising runs raise false alarms more rarely than "
    "the stated level of 0.05: the effect is the level less the larger of the two rates.",
    unit="share of runs",
    one_seed=_one_seed,
    effect=lambda arms: LEVEL - max(arms["false alarms, flat"], arms["false alarms, rising"]),
    threshold=0.0,
    seeds=10,
)
