from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from truegain.core.component import component


@component("reward", cite=("arXiv:2604.08545", "Accio-Lab/Metis metis.py", "arXiv:2601.21912"))
def well_formed(answered: Float[Tensor, "B"], *, scale: float = 0.1, broken: float = 0.0) -> Float[Tensor, "B"]:
    """``scale`` for a completion that holds one well-formed answer, right or wrong; ``broken`` for any other.

    >>> import torch
    >>> well_formed(torch.tensor([1.0, 0.0]), scale=0.5)
    tensor([0.5000, 0.0000])
    """
    return broken + (scale - broken) * answered
