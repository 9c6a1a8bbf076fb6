from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from truegain.core import segments
from truegain.core.component import component


@component("surrogate", cite="arXiv:2312.08935")
def value_square(
    value: Float[Tensor, "B T"], target: Float[Tensor, "B T"], step: Int[Tensor, "B T"]
) -> Float[Tensor, "B T"]:
    """Squared error of a head at the last token of each step, ``(v - target)^2``; 0 at other tokens.

    A step whose target is NaN, as nobody could judge it, gives 0 and no gradient.

    >>> import torch
    >>> value_square(torch.tensor([[9.0, 0.5]]), torch.tensor([[0.0, 1.0]]), torch.tensor([[0, 0]]))
    tensor([[0.0000, 0.2500]])
    """
    known = segments.ends(step) & ~target.isnan()
    return torch.where(known, value - target.nan_to_num(), 0.0).square()
