from __future__ import annotations

from jaxtyping import Bool, Float, Int
from torch import Tensor

from truegain.core import segments
from truegain.core.component import component


@component("weight", cite=("arXiv:2510.04474", "Optimization-AI/DRPO compute_policy_loss_drpo"))
def group_mean(mask: Bool[Tensor, "B T"], group: Int[Tensor, "B"]) -> Float[Tensor, "B T"]:
    """Every group alike, its tokens summed: ``1 / groups``, over groups with at least one token.

    For surrogates that spread the loss of a group over its tokens. Groups that teach nothing count. All-masked: zeros.

    >>> import torch
    >>> group_mean(torch.ones(3, 2, dtype=torch.bool), torch.tensor([0, 0, 1])).sum(1)
    tensor([1., 1., 1.])
    """
    groups = segments.total(mask.any(dim=1).long(), segments.dense(group)) > 0
    return mask.float() / groups.sum().clamp(min=1)
