from __future__ import annotations

from jaxtyping import Bool, Float
from torch import Tensor

from truegain.core.component import component


@component("weight", cite=("arXiv:2503.14476", "verl agg_loss token-mean", "TRL loss_type dapo"))
def token_mean(mask: Bool[Tensor, "B T"]) -> Float[Tensor, "B T"]:
    """Every token alike: ``1 / sum(mask)`` over the whole optimiser step. A long row weighs more. All-masked: zeros.

    >>> import torch
    >>> token_mean(torch.tensor([[True, True], [True, False]])).sum(1)
    tensor([0.6667, 0.3333])
    """
    return mask.float() / mask.sum().clamp(min=1)
