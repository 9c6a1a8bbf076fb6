"""Herding: the median of an ensemble undoes errors of each member's own, and none that all of them share."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from truegain.claims.claim import Claim
from truegain.lab.optimise import best_of_n
from truegain.methods import reward

ANSWERS, MEMBERS, N = 4000, 5, 256
NOISE, OWN = 0.8, 0.05


def _one_seed(seed: int) -> Mapping[str, float]:
    """Share of the gold lost by best-of-256 against one member that the median and the worst score bring back."""
    rng = torch.Generator().manual_seed(seed)
    gold = torch.randn(ANSWERS, generator=rng)
    own = torch.randn(ANSWERS, MEMBERS, generator=rng)
    shared = torch.randn(ANSWERS, 1, generator=rng)
    oracle = best_of_n(gold, gold, (N,))["gold"][0]
    found: dict[str, float] = {}
    for kind, error in (("own", NOISE * own), ("shared", NOISE * shared + OWN * own)):
        scores = gold[:, None] + error
        # The mean over members of what each gets alone: one member would be a draw.
        single = sum(best_of_n(scores[:, m], gold, (N,))["gold"][0] for m in range(MEMBERS)) / MEMBERS
        for name, aggregate in (("median", reward.median_member), ("worst", reward.worst_member)):
            gained = best_of_n(aggregate(scores), gold, (N,))["gold"][0] - single
            found[f"{name}, {kind} errors"] = gained / (oracle - single)
    return found


CLAIM = Claim(
    name="ensemble-aggregators-herding",
    system="ensemble-aggregators-herding",
    states="Of the gold that best-of-256 loses against one reward model, the median of five brings back a share "
    "that is more than 0.5 larger where their errors are their own than where they share them.",
    unit="share of the lost gold",
    one_seed=_one_seed,
    effect=lambda arms: arms["median, own errors"] - arms["median, shared errors"],
    threshold=0.5,
    seeds=10,
)
