from __future__ import annotations

from jaxtyping import Bool, Float, Int
from torch import Tensor

from truegain.core.component import component
from truegain.methods.objective._ranks import ordered_pairs


@component("weight", cite="arXiv:2504.04524")
def unpaired_mean(
    mask: Bool[Tensor, "B T"], group: Int[Tensor, "B"], level: Float[Tensor, "B"]
) -> Float[Tensor, "B T"]:
    """``1 / rows`` in a step without any pair that `pair_mean` counts, 0 in every other step.

    Rows without a token are not counted.

    >>> import torch
    >>> two, one = torch.ones(2, 1, dtype=torch.bool), torch.tensor([0, 0])
    >>> unpaired_mean(two, one, torch.tensor([2.0, 2.0])).sum(), unpaired_mean(two, one, torch.tensor([1.0, 2.0])).sum()
    (tensor(1.), tensor(0.))
    """
    rows = mask.any(dim=1)
    paired = len(ordered_pairs(level, group, rows)[0]) > 0
    return mask.to(level.dtype) * (0.0 if paired else 1 / max(int(rows.sum()), 1))
