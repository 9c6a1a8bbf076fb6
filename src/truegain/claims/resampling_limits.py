"""A weak model that tries a thousand times against one try of a stronger model, under a test that misses a quarter."""

from __future__ import annotations

from collections.abc import Mapping

from truegain.claims.claim import Claim
from truegain.recipes.resampling_limits import resampling_limits


def _one_seed(seed: int) -> Mapping[str, float]:
    record = resampling_limits(seed=seed).function()
    names = ("single", "at_100", "at_all", "ceiling", "best", "best_free")
    arms = {f"{model}: {name}": float(record[f"{model}_{name}"]) for model in ("weak", "strong") for name in names}
    return arms | {"weak: distance to the ceiling at 100": abs(arms["weak: at_100"] - arms["weak: ceiling"])}


CLAIM = Claim(
    name="resampling-limits",
    system="resampling-limits",
    states="On 1000 tasks, with a test that accepts a quarter of the wrong answers, one try of a model right 70 % of "
    "the time is right more often than the first accepted answer of a thousand tries of one right 30 % of the time; "
    "ceilings by the formula and the numbers of tries that pay most stand beside it.",
    unit="accuracy",
    one_seed=_one_seed,
    effect=lambda arms: arms["strong: single"] - arms["weak: at_all"],
    threshold=0.0,
)
