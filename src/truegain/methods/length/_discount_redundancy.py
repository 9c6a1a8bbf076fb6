from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from truegain.core.component import component
from truegain.core.errors import SettingError


@component("reward", cite=("arXiv:2508.02178", "github.com/HenryZhen97/Reconsidering-Overthinking"))
def discount_redundancy(
    correct: Float[Tensor, "B"],
    internal_redundancy: Float[Tensor, "B"],
    external_redundancy: Float[Tensor, "B"],
    *,
    combine: Literal["product", "mean"] = "product",
    use: Literal["both", "internal", "external"] = "both",
    steepness: float = 20.0,
    centre: float = 0.3,
) -> Float[Tensor, "B"]:
    """A right answer earns less the more its thought repeats itself, and the more it goes on after the answer.

        p_ext = 1 - external       p_int = (s(1 - internal) - s(0)) / (s(1) - s(0)),  s(x) = 1 / (1 + exp(-k (x - c)))
        reward = correct * p_int * p_ext    ("mean", as in the published code: correct * (p_int + p_ext) / 2)

    with k the ``steepness`` > 0 and c the ``centre``: p_int falls from 1 to 0, steeply where the repetition is 1 - c.
    ``use`` leaves one of the two out. In [0, 1]; 0 for a wrong answer, and where either redundancy is NaN: no one
    thought, or no answer found in it. Raises SettingError for a ``steepness`` of 0 or less.
    Source: Hong et al. 2025, Algorithm 1.

    >>> import torch
    >>> inner = torch.tensor([0.0, 0.5, 0.7, 0.9, 1.0])
    >>> discount_redundancy(torch.ones(5), inner, torch.full((5,), 0.25))
    tensor([0.7500, 0.7365, 0.3741, 0.0117, 0.0000])
    """
    if not steepness > 0:
        raise SettingError(f"discount_redundancy: steepness={steepness} must be above 0")
    inner, outer = internal_redundancy.nan_to_num(1.0), external_redundancy.nan_to_num(1.0)

    def curve(share: Tensor) -> Tensor:
        return torch.sigmoid(steepness * (share - centre))

    zero, one = (curve(torch.full_like(inner, end)) for end in (0.0, 1.0))
    p_int, p_ext = (curve(1 - inner) - zero) / (one - zero), 1 - outer
    if use != "both":
        share = p_int if use == "internal" else p_ext
    else:
        share = p_int * p_ext if combine == "product" else (p_int + p_ext) / 2
    known = internal_redundancy.isfinite() & external_redundancy.isfinite()
    return torch.where(known, correct * share, torch.zeros_like(correct))
