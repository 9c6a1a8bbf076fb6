from __future__ import annotations

from jaxtyping import Bool, Float, Int
from torch import Tensor

from truegain.core.component import component
from truegain.methods.objective._ranks import ordered_pairs


@component("weight", cite="arXiv:2504.04524")
def pair_mean(mask: Bool[Tensor, "B T"], group: Int[Tensor, "B"], level: Float[Tensor, "B"]) -> Float[Tensor, "B T"]:
    """Every ordered pair of the step alike: ``1 / pairs``, over pairs of one group whose levels differ.

    For `ranked_pairs`. Only rows with a token make pairs. A step without a pair has weight 0 everywhere.

    >>> import torch
    >>> pair_mean(torch.ones(3, 1, dtype=torch.bool), torch.tensor([0, 0, 0]), torch.tensor([1.0, 2.0, 2.0])).flatten()
    tensor([0.5000, 0.5000, 0.5000])
    """
    pairs = len(ordered_pairs(level, group, mask.any(dim=1))[0])
    return mask.to(level.dtype) * (1 / pairs if pairs else 0.0)
