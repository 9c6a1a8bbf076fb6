"""GRPO-Guard's ratio beside the plain one on the same draws, and what training on either does to the truth."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from truegain.claims.claim import Claim
from truegain.recipes.grpo_guard import grpo_guard


def _worst(record: Mapping[str, Any], name: str) -> float:
    """The largest distance of a step's mean log-ratio from 0, in its own deviations."""
    pairs = zip(record[f"{name}_mean"], record[f"{name}_std"], strict=True)
    return max(abs(mean) / deviation for mean, deviation in pairs)


def _one_seed(seed: int) -> Mapping[str, float]:
    arms: dict[str, float] = {}
    for name, guard in (("guard", True), ("plain", False)):
        record = grpo_guard(guard=guard, seed=seed).function()
        arms |= {f"{name}: proxy": record["proxy"], f"{name}: truth": record["truth"]}
        for ratio in ("raw", "norm"):
            spread = record[f"{ratio}_std"]
            arms[f"{name}: {ratio} bias"] = _worst(record, ratio)
            arms[f"{name}: {ratio} spread over steps"] = max(spread) / min(spread)
            arms[f"{name}: {ratio} clipped"] = max(record[f"{ratio}_clipped"])
    return arms


CLAIM = Claim(
    name="grpo-guard",
    system="grpo-guard",
    states="On a four-step flow of points in the plane, trained by plain ratios, the mean log-ratio of the step where "
    "it is worst is farther from 0 by more than 0.05 of its deviation as it is than normalised; the spread of "
    "deviations over steps, the share clipped, proxy and truth of both trainings stand beside it.",
    unit="deviations",
    one_seed=_one_seed,
    effect=lambda arms: arms["plain: raw bias"] - arms["plain: norm bias"],
    threshold=0.05,
    seeds=10,
)
