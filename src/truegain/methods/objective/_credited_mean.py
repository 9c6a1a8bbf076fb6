from __future__ import annotations

from jaxtyping import Bool, Float
from torch import Tensor

from truegain.core.component import component


@component("weight", cite=("arXiv:2604.08545", "Accio-Lab/Metis hdpo_actor.py"))
def credited_mean(mask: Bool[Tensor, "B T"], advantage: Float[Tensor, "B T"]) -> Float[Tensor, "B T"]:
    """Mean over the tokens of rows that the term credits: those with an advantage other than 0 at some token.

    ``1 / n``, n the tokens of such rows; 0 elsewhere. A term that credits few rows is so not thinned by the others.
    No such row: zeros.

    >>> import torch
    >>> credited_mean(torch.ones(2, 2, dtype=torch.bool), torch.tensor([[1.0, 0.0], [0.0, 0.0]]))
    tensor([[0.5000, 0.5000],
            [0.0000, 0.0000]])
    """
    rows = ((advantage != 0) & mask).any(dim=1, keepdim=True)
    chosen = (mask & rows).to(advantage.dtype)
    return chosen / chosen.sum().clamp(min=1)
