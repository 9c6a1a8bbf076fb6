"""The root of the batch's mean chi-squared divergence, as weights."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from truegain.core.component import component
from truegain.methods.objective._chi2_to_reference import estimate


@component("weight", cite=("arXiv:2403.03185", "github:cassidylaidlaw/llm_optimization PPOWithRefPolicyConfig.loss"))
def chi2_root(
    old_logp: Float[Tensor, "B T"],
    ref_logp: Float[Tensor, "B T"],
    mask: Bool[Tensor, "B T"],
    *,
    bound: float = 10.0,
    floor: float = 1e-4,
) -> Float[Tensor, "B T"]:
    """Weights under which `chi2_to_reference` has the gradient of ``sqrt(chi^2)`` of the whole batch.

    ``d sqrt(c) = dc / (2 sqrt(c))`` with ``c`` the mean estimate over the rows before the update: ``1 / (2 sqrt(c) B)``
    at each token, 0 where ``c`` is at ``floor`` or below, as at the reference itself. The term's value is then
    ``sqrt(c) / 2``. ``bound`` as there. All-masked: zeros.

    >>> import torch
    >>> l = torch.tensor([[0.5], [-0.2], [0.0]])
    >>> chi2_root(l, torch.zeros(3, 1), torch.ones(3, 1, dtype=torch.bool))[0]  # 1 / (2 sqrt(0.09846) 3)
    tensor([0.5311])
    """
    chi2 = estimate(old_logp, ref_logp, mask, bound)
    rows = mask.any(dim=1)
    mean = chi2.sum() / rows.sum().clamp(min=1)
    scale = torch.where(mean > floor, 0.5 / mean.clamp(min=floor).sqrt(), torch.zeros_like(mean))
    return mask * scale / rows.sum().clamp(min=1)
