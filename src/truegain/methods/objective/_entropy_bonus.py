from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from truegain.core.component import component


@component("surrogate", cite="arXiv:1602.01783")
def entropy_bonus(entropy: Float[Tensor, "B T"], *, coefficient: float = 0.001) -> Float[Tensor, "B T"]:
    """``-coefficient * entropy``: rewards uncertainty, in nats. Source: Mnih et al. 2016, section 4.

    >>> import torch
    >>> entropy_bonus(torch.tensor([[2.0]]), coefficient=0.5)
    tensor([[-1.]])
    """
    return -coefficient * entropy
