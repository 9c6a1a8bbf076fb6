"""Features of pure noise, chosen with the help of a hold-out: what does the hold-out then say of the choice?"""

from __future__ import annotations

from collections.abc import Mapping

from truegain.claims.claim import Claim
from truegain.methods.evaluation import thresholdout_study


def _one_seed(seed: int) -> Mapping[str, float]:
    return thresholdout_study(seed=seed)


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
