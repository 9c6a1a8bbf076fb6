"""Best-of-n against one proxy and against conservative ensembles, with heavy-tailed errors of each member's own."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import torch

from truegain.claims.claim import Claim
from truegain.core.component import call
from truegain.lab.optimise import best_of_n
from truegain.methods import reward

ANSWERS, MEMBERS, NOISE, TAIL, PENALTY = 4000, 5, 0.8, 2.5, 0.5
NS = tuple(2**i for i in range(12))
AGGREGATES = {
    "mean": reward.mean_member,
    "worst case": reward.worst_member,
    "uncertainty": partial(reward.uncertainty_weighted, penalty=PENALTY),
    "median": reward.median_member,
}


def proxies(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Gold [N], and members' scores [N, M]: gold plus Student noise of each member's own."""
    rng = torch.Generator().manual_seed(seed)
    gold = torch.randn(ANSWERS, generator=rng)
    normal = torch.randn(ANSWERS, MEMBERS, generator=rng)
    # Student's t is a normal over the root of a chi-squared over its degrees of freedom.
    gamma = torch._standard_gamma(torch.full((ANSWERS, MEMBERS), TAIL / 2), generator=rng)  # pyright: ignore
    scale = gamma * 2 / TAIL
    return gold, gold[:, None] + NOISE * normal / scale.sqrt()


def _one_seed(seed: int) -> Mapping[str, float]:
    gold, scores = proxies(seed)
    single = best_of_n(scores[:, 0], gold, NS)["gold"]
    found = {"single, peak": max(single), "single, end": single[-1]}
    for name, aggregate in AGGREGATES.items():
        value, _ = call(aggregate, {"model_reward": scores}, {})
        curve = best_of_n(value, gold, NS)["gold"]
        found |= {f"{name}, peak": max(curve), f"{name}, end": curve[-1]}
    return found


CLAIM = Claim(
    name="rm-ensemble-conservative",
    system="rm-ensemble-conservative",
    states="Best of n up to 2048 against five proxies with heavy-tailed errors of their own: the lower of worst-case "
    "and uncertainty-weighted optimisation ends with more than 1.5 times the gold that a single proxy has at its peak.",
    unit="ratio of gold",
    one_seed=_one_seed,
    effect=lambda arms: min(arms["worst case, end"], arms["uncertainty, end"]) / arms["single, peak"],
    threshold=1.5,
    seeds=10,
)
