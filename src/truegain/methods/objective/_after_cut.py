from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from truegain.core.component import component


@component("weight", cite="arXiv:2601.03715")
def after_cut(mask: Bool[Tensor, "B T"], cut: Int[Tensor, "B"], *, rescale: bool = True) -> Float[Tensor, "B T"]:
    """Only where a row and its fork differ: 0 for the first ``cut`` tokens of both, 1 after them and in other rows.

    What two rows share is neither the merit of the one nor the fault of the other. ``rescale`` multiplies by the share
    of tokens that are left, upside down: beside `token_mean` it is then the mean over those that are left. All-masked
    rows, and a batch without any token after a cut, get 0. Source: Shi et al. 2026 (R3L), pivotal credit.

    >>> import torch
    >>> after_cut(torch.ones(2, 3, dtype=torch.bool), torch.tensor([1, -1]), rescale=False)
    tensor([[0., 1., 1.],
            [1., 1., 1.]])
    """
    left = mask & (torch.arange(mask.shape[1], device=mask.device) >= cut[:, None])
    scale = mask.sum() / left.sum().clamp(min=1) if rescale else 1.0
    return left.float() * scale
