from __future__ import annotations

from jaxtyping import Bool, Float
from torch import Tensor

from truegain.core.component import component


@component("weight", cite=("arXiv:2503.20783", "verl agg_loss token-sum"))
def token_sum(mask: Bool[Tensor, "B T"], *, divisor: float = 1.0) -> Float[Tensor, "B T"]:
    """Every token of the step summed over a constant: ``1 / divisor``. The loss grows with the number of rows.

    ``divisor`` > 0: 1 is verl's token-sum; a completion length is the seq-mean-token-sum-norm of older verl,
    which did not divide by the rows. `sequence_sum` is the form that does.

    >>> import torch
    >>> token_sum(torch.tensor([[True, True], [True, False]]), divisor=4.0).sum(1)
    tensor([0.5000, 0.2500])
    """
    return mask.float() / divisor
