"""Features of pure noise, chosen with the help of a hold-out: what does the hold-out then say of the choice?

A seed is the mean of ten executions, as the paper's figures are means over a hundred: the last question is a single
draw of noise, and a first run of this claim with one execution per seed was decided by it (docs/log.md).
"""

from __future__ import annotations

from collections.abc import Mapping

from truegain.claims.claim import Claim
from truegain.methods.evaluation import thresholdout_study

EXECUTIONS = 10


def _one_seed(seed: int) -> Mapping[str, float]:
    found = [thresholdout_study(seed=seed * EXECUTIONS + n) for n in range(EXECUTIONS)]
    means = {name: sum(one[name] for one in found) / EXECUTIONS for name in found[0]}
    # More than a plain hold-out says: the noise on the threshold was so large that the training mean was the answer.
    return {**means, "share answered by the training mean": sum(f["reusable"] > f["naive"] for f in found) / EXECUTIONS}


CLAIM = Claim(
    name="thresholdout-holdout",
    system="thresholdout-holdout",
    states="2000 rows each of training set and hold-out, 1500 features and labels of fair coins: of a vote of 200 "
    "features that were chosen with its help, a plain hold-out reports an accuracy that is too high, and above what "
    "Thresholdout reports by more than 0.04.",
    unit="accuracy",
    one_seed=_one_seed,
    effect=lambda arms: arms["naive"] - arms["reusable"],
    threshold=0.04,
    seeds=10,
)
