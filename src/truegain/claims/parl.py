"""Labels until the policy of a learned reward is good, with and without the way that policy moves with the reward."""

from __future__ import annotations

from collections.abc import Mapping

from truegain.claims.claim import Claim
from truegain.methods.reward import Solver
from truegain.recipes.parl import parl

SOLVERS: Mapping[str, Solver] = {"fitted round by round": "none", "parl": "direct"}


def _one_seed(seed: int) -> Mapping[str, float]:
    arms: dict[str, float] = {}
    # Each seed draws two processes, as one says little of the number of labels.
    for name, solver in SOLVERS.items():
        records = [parl(solver=solver, seed=100 * seed + n).function() for n in range(2)]
        for key in ("labels", "share", "reached"):
            arms[f"{name}: {key}"] = sum(record[key] for record in records) / len(records)
    return arms


CLAIM = Claim(
    name="parl",
    system="parl",
    states="On random processes of 4 states and 3 actions, a reward learned from 8 Bradley-Terry labels a round needs "
    "at least 30 % fewer labels to 95 % of the gold return with PARL's full derivative than when it is fitted round by "
    "round; runs that never get there count with all their labels.",
    unit="share of the labels saved",
    one_seed=_one_seed,
    effect=lambda arms: 1 - arms["parl: labels"] / arms["fitted round by round: labels"],
    threshold=0.3,
)
