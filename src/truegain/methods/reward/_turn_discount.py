from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from truegain.core import segments
from truegain.core.component import component
from truegain.core.errors import SettingError


@component("reward", cite="arXiv:2601.03525")
def turn_discount(
    reward: Float[Tensor, "B"], turn: Int[Tensor, "B T"], mask: Bool[Tensor, "B T"], *, gamma: float = 0.95
) -> Float[Tensor, "B"]:
    """``gamma ** turns`` times the reward so far: fewer turns of the policy are worth more. A modifier.

    Turns are those in which the policy chose a token; a row without any keeps its reward. ``gamma`` in [0, 1]; 1 leaves
    the reward. Raises SettingError outside. Source: VeRPO 2026, its reward of a trajectory.

    >>> import torch
    >>> turn = torch.tensor([[0, 1, 2], [0, -1, -1]])
    >>> turn_discount(torch.ones(2), turn, turn % 2 == 0, gamma=0.5)
    tensor([0.2500, 0.5000])
    """
    if not 0 <= gamma <= 1:
        raise SettingError(f"turn_discount: gamma must be a number from 0 to 1, not {gamma!r}")
    rows, width = turn.shape[0], segments.count(turn)
    row = torch.arange(rows, device=turn.device)[:, None]
    ids = torch.where(mask & (turn >= 0), row * width + turn, -1)
    count = (segments.total(torch.ones_like(ids), ids, rows * width) > 0).reshape(rows, width).sum(dim=1)
    return reward * gamma ** count.to(reward.dtype)
