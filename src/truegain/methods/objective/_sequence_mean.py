from __future__ import annotations

from jaxtyping import Bool, Float
from torch import Tensor

from truegain.core.component import component


@component("weight", cite=("arXiv:2402.03300", "verl agg_loss seq-mean-token-mean", "TRL loss_type grpo"))
def sequence_mean(mask: Bool[Tensor, "B T"]) -> Float[Tensor, "B T"]:
    """Every row alike, its tokens averaged: ``1 / (rows * n_i)``, over rows with at least one token.

    GRPO's own aggregation; a wrong long row is punished less per token than a wrong short one. All-masked: zeros.

    >>> import torch
    >>> sequence_mean(torch.tensor([[True, True], [True, False], [False, False]])).sum(1)
    tensor([0.5000, 0.5000, 0.0000])
    """
    lengths = mask.sum(dim=1, keepdim=True)
    rows = (lengths > 0).sum().clamp(min=1)
    return mask.float() / lengths.clamp(min=1) / rows
