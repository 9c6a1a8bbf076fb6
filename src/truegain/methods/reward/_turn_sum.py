from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from truegain.core import segments
from truegain.core.component import component


@component("reward", cite=("arXiv:2601.10712", "quchangle1/MatchTIR core_algos.py"))
def turn_sum(
    turn_reward: Float[Tensor, "B U"], turn: Int[Tensor, "B T"], mask: Bool[Tensor, "B T"], *, scale: float = 1.0
) -> Float[Tensor, "B"]:
    """``scale`` times the sum of a row's rewards of turns, over the turns in which the policy chose a token.

    A turn without a number (more turns than ``turn_reward`` has columns) counts 0; a row without tokens gets 0. A NaN
    at a turn of the policy makes the reward NaN, which the loop refuses.

    >>> import torch
    >>> turn = torch.tensor([[0, 1, 2], [0, -1, -1]])
    >>> turn_sum(torch.tensor([[1.0, 9.0, 0.5], [0.25, 9.0, 9.0]]), turn, turn % 2 == 0)
    tensor([1.5000, 0.2500])
    """
    rows, width = turn_reward.shape
    row = torch.arange(rows, device=turn.device)[:, None]
    ids = torch.where(mask & (turn >= 0) & (turn < width), row * width + turn, -1)
    present = (segments.total(torch.ones_like(ids), ids, rows * width) > 0).reshape(rows, width)
    return scale * turn_reward.masked_fill(~present, 0.0).sum(dim=1)
