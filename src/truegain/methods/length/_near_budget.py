from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from truegain.core.component import component
from truegain.core.errors import SettingError
from truegain.methods.length._gated import lengths


@component("reward", cite="arXiv:2508.08940")
def near_budget(
    mask: Bool[Tensor, "B T"],
    *,
    budget: float = 256.0,
    most: float = 1.0,
    shape: Literal["peak", "band"] = "peak",
) -> Float[Tensor, "B"]:
    """Reward of a length near the budget, right or wrong: it rises to the budget L and falls to 0 at twice of it.

        most * l / L              up to L (``most`` throughout with ``shape="band"``)
        most * (1 - (l - L)/L)    from L to 2 L
        0                         beyond

    l is the length up to the row's last policy token, a tool's tokens included. An empty row earns nothing (``most`` in
    the band). It is *not* gated by the answer: a wrong one of the right length earns as much, and only the weight of
    the outcome beside it keeps that from paying. ``budget`` in tokens, above 0, and never counted as less than 1: a
    `shrink_budget` may set it. ``most`` in units of reward. Raises SettingError for a budget of 0 or less.
    Source: Hammoud et al. 2025 (curriculum GRPO), section 3.2; the band is its ablation.

    >>> import torch
    >>> near_budget(torch.arange(250) < torch.tensor([50, 100, 150, 200, 250])[:, None], budget=100.0)
    tensor([0.5000, 1.0000, 0.5000, 0.0000, 0.0000])
    """
    if not budget > 0:
        raise SettingError(f"near_budget: budget={budget}; a number of tokens above 0")
    room = max(budget, 1.0)
    share = lengths(mask).float() / room
    rising = torch.ones_like(share) if shape == "band" else share
    return most * torch.where(share <= 1, rising, (2 - share).clamp(min=0))
