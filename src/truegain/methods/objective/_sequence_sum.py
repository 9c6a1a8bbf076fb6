from __future__ import annotations

from jaxtyping import Bool, Float
from torch import Tensor

from truegain.core.component import component


@component("weight", cite=("arXiv:2503.20783", "verl agg_loss seq-mean-token-sum", "TRL loss_type dr_grpo"))
def sequence_sum(mask: Bool[Tensor, "B T"], *, length: float = 1.0) -> Float[Tensor, "B T"]:
    """Every row's tokens summed, rows averaged: ``1 / (rows * length)``, over rows with at least one token.

    ``length`` is a constant: 1 is verl's seq-mean-token-sum, the token limit is TRL's dr_grpo. All-masked: zeros.

    >>> import torch
    >>> sequence_sum(torch.tensor([[True, True], [True, False]]), length=2.0).sum(1)
    tensor([0.5000, 0.2500])
    """
    rows = (mask.sum(dim=1) > 0).sum().clamp(min=1)
    return mask.float() / (rows * length)
