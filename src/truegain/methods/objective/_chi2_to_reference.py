"""The chi-squared divergence from the reference, estimated per completion and regularised by its root."""

from __future__ import annotations

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from truegain.core.component import component


@component("surrogate", cite=("arXiv:2403.03185", "github:cassidylaidlaw/llm_optimization PPOWithRefPolicyConfig.loss"))
def chi2_to_reference(
    logp: Float[Tensor, "B T"], ref_logp: Float[Tensor, "B T"], mask: Bool[Tensor, "B T"], *, bound: float = 10.0
) -> tuple[Float[Tensor, "B T"], dict[str, Tensor]]:
    """An estimate of chi^2(policy || reference) per completion, shared out evenly over its tokens.

    With ``l = sum_t (logp - ref_logp)``: ``(e^l - 1) + (e^-l - 1)``, each exponential continued as its tangent
    beyond ``bound``, so that value and gradient stay finite. On samples of the policy the first part has the mean
    chi^2, the second none: it is a control variate, and makes the estimate 0 or more. Under the rollout policy the
    two hold at the start of an update only. Its expected gradient is that of chi^2 near the reference and half of
    it far away, where the weight that a sample has by being drawn is left out, as in the source. With `chi2_root`
    as weight the loss has the gradient of the root of the batch's mean.
    ``bound`` > 0, in nats. An empty row gives 0. Logs the estimate per row.
    Source: Laidlaw, Singhal and Dragan 2024, section 5; the second part and the tangent are their code's.

    >>> import torch
    >>> l = torch.tensor([[0.5], [-0.2], [0.0]])
    >>> loss, _ = chi2_to_reference(l, torch.zeros(3, 1), torch.ones(3, 1, dtype=torch.bool))
    >>> loss.mean()
    tensor(0.0985)
    """
    value = estimate(logp, ref_logp, mask, bound)
    tokens = mask.sum(dim=1).clamp(min=1)
    return (value / tokens)[:, None] * mask, {"truegain/chi2": value}


def estimate(logp: Tensor, ref_logp: Tensor, mask: Tensor, bound: float) -> Tensor:
    """The estimate [B] for each completion."""
    ratio = (logp - ref_logp).masked_fill(~mask, 0.0).sum(dim=1)
    return _exp(ratio, bound) + _exp(-ratio, bound) - 2


def _exp(x: Tensor, bound: float) -> Tensor:
    """``e^x``, continued beyond ``bound`` as its tangent there."""
    within = x.clamp(max=bound).exp()
    return torch.where(x < bound, within, math.exp(bound) * (1 + x - bound))
