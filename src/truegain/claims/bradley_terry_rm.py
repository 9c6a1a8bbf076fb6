"""Bradley-Terry: a linear truth is recovered from 2000 pairs whose labels are drawn, not given."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from truegain.claims.claim import Claim
from truegain.core.component import call
from truegain.core.forms import members
from truegain.recipes.bradley_terry_rm import bradley_terry_rm

WIDTH, PAIRS, FRESH, STEPS, LR = 12, 2000, 20_000, 300, 0.05


def _one_seed(seed: int) -> Mapping[str, float]:
    rng = torch.Generator().manual_seed(seed)
    truth = torch.randn(WIDTH, generator=rng) / WIDTH**0.5
    one, other = (torch.randn(PAIRS, WIDTH, generator=rng) for _ in range(2))
    wins = torch.rand(PAIRS, generator=rng) < torch.sigmoid((one - other) @ truth)
    chosen, rejected = torch.where(wins[:, None], one, other), torch.where(wins[:, None], other, one)
    (loss,) = members(bradley_terry_rm().pair)
    weight = torch.zeros(WIDTH, requires_grad=True)
    optimiser = torch.optim.Adam([weight], lr=LR)
    for _ in range(STEPS):
        columns = {"chosen_reward": chosen @ weight, "rejected_reward": rejected @ weight}
        optimiser.zero_grad()
        call(loss, columns, {})[0].mean().backward()
        optimiser.step()
    ahead = torch.randn(FRESH, WIDTH, generator=rng) - torch.randn(FRESH, WIDTH, generator=rng)
    # The chance that a fresh label agrees, exact: nobody can do better than to follow the sign of the truth.
    agrees = torch.sigmoid((ahead @ truth) * (ahead @ weight.detach()).sign())
    best = torch.sigmoid((ahead @ truth).abs())
    return {"fitted": float(agrees.mean()), "Bayes": float(best.mean()), "cosine": _cosine(weight.detach(), truth)}


def _cosine(a: torch.Tensor, b: torch.Tensor) -> float:
    return float(a @ b / (a.norm() * b.norm()))


CLAIM = Claim(
    name="bradley-terry-rm",
    system="bradley-terry-rm",
    states="A linear reward fitted on 2000 pairs with drawn labels orders fresh pairs less than 2 points below the "
    "accuracy of the truth itself.",
    unit="accuracy",
    one_seed=_one_seed,
    effect=lambda arms: arms["fitted"] - arms["Bayes"],
    threshold=-0.02,
    seeds=10,
)
