from __future__ import annotations

from jaxtyping import Float, Int
from torch import Tensor

from truegain.core import segments
from truegain.core.component import component


@component("weight", cite="arXiv:2305.20050")
def step_mean(step: Int[Tensor, "B T"]) -> Float[Tensor, "B T"]:
    """Every step of the batch alike: ``1 / steps`` at all its tokens, 0 outside of steps.

    For losses that stand at one token of each step. No step at all: zeros.

    >>> import torch
    >>> step_mean(torch.tensor([[0, 0, 1], [0, -1, -1]]))
    tensor([[0.3333, 0.3333, 0.3333],
            [0.3333, 0.0000, 0.0000]])
    """
    inside = step >= 0
    count = int(segments.ends(step).sum())
    return inside.float() / max(count, 1)
