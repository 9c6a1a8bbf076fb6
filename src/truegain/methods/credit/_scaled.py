from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from truegain.core.component import component


@component("credit", cite="truegain")
def scaled(advantage: Float[Tensor, "B T"], *, factor: float = 1.0) -> Float[Tensor, "B T"]:
    """``factor`` times the credit before it: a modifier, for a mean or a weighted sum of several members.

    >>> import torch
    >>> scaled(torch.tensor([[1.0, -2.0]]), factor=0.5)
    tensor([[ 0.5000, -1.0000]])
    """
    return factor * advantage
