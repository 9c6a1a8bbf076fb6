from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from truegain.core import segments
from truegain.core.component import component


@component("weight", cite="arXiv:2305.20050")
def step_mean(mask: Bool[Tensor, "B T"], step: Int[Tensor, "B T"]) -> Float[Tensor, "B T"]:
    """Every step of the batch alike: ``1 / steps`` at all its tokens that the policy chose, 0 elsewhere.

    For losses that stand at one token of each step. No step at all: zeros.

    >>> import torch
    >>> step = torch.tensor([[0, 0, 1], [0, -1, -1]])
    >>> step_mean(step >= 0, step)
    tensor([[0.3333, 0.3333, 0.3333],
            [0.3333, 0.0000, 0.0000]])
    """
    inside = (step >= 0) & mask
    count = int(segments.ends(torch.where(inside, step, -1)).sum())
    return inside.float() / max(count, 1)
