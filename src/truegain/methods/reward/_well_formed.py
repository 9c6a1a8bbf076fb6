from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from truegain.core.component import component


@component("reward", cite=("arXiv:2604.08545", "Accio-Lab/Metis metis.py"))
def well_formed(answered: Float[Tensor, "B"], *, scale: float = 0.1) -> Float[Tensor, "B"]:
    """``scale`` for a completion that holds one well-formed answer, right or wrong.

    >>> import torch
    >>> well_formed(torch.tensor([1.0, 0.0]), scale=0.5)
    tensor([0.5000, 0.0000])
    """
    return scale * answered
