from __future__ import annotations

import math

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from truegain.core import segments
from truegain.core.component import component
from truegain.core.errors import SettingError
from truegain.methods.objective._groups import log_softmax_within, row_means


@component("surrogate", cite=("arXiv:2510.04474", "Optimization-AI/DRPO compute_policy_loss_drpo"))
def decoupled_contrast(
    logp: Float[Tensor, "B T"],
    correct: Float[Tensor, "B"],
    group: Int[Tensor, "B"],
    mask: Bool[Tensor, "B T"],
    *,
    max_tokens: int,
    tau: float = 10.0,
    spread: float = 0.1,
) -> Float[Tensor, "B T"]:
    """Right rows of a group, the short ones more, against its wrong rows, the likely ones more: summed over it, -J.

    With ``s_i`` the mean of ``logp`` over the n_i tokens of row i, P the right and N the wrong rows of a group:

        J = sum_P w_i s_i - tau log sum_N exp(s_j / tau),   w = softmax over P of (1 - n_i / max_tokens) / spread

    so a long right row is made likelier by less than a short one, and never less likely: length is compared among the
    right rows only. Wrong rows weigh ``softmax_N(s / tau)``, which sums to 1. A group without a right or without a
    wrong row gives no gradient; a row without a token is neither. The tokens of a group add up to -J exactly:
    those of a right row to ``-w_i s_i``, of a wrong one, with weight p_j, to ``p_j (s_j - tau log p_j)``.

    ``tau`` > 0 is in nats, ``spread`` > 0 the Lambda of the paper, a share of the token limit; infinity weighs all
    right rows alike (DisCO). Raises SettingError for others. Sum it by `group_mean`. Source: Li et al. 2025.

    >>> import torch
    >>> mask = torch.arange(8) < torch.tensor([[2], [8], [1], [1]])
    >>> logp = torch.zeros(4, 8).masked_scatter(mask, torch.tensor([0.0] * 10 + [-1.0, -3.0])).requires_grad_()
    >>> right, group = torch.tensor([1.0, 1.0, 0.0, 0.0]), torch.zeros(4, dtype=torch.long)
    >>> decoupled_contrast(logp, right, group, mask, max_tokens=10).sum().backward()
    >>> logp.grad.sum(dim=1).round(decimals=4)
    tensor([-0.9975, -0.0025,  0.5498,  0.4502])
    """
    if not (tau > 0 and spread > 0) or math.isinf(tau):
        raise SettingError(f"decoupled_contrast: tau={tau} and spread={spread} must be above 0, and tau finite")
    score, count = row_means(logp, mask)
    group = segments.dense(group)
    right, wrong = (count > 0) & (correct > 0.5), (count > 0) & (correct <= 0.5)
    size = segments.count(group)
    found = [segments.total(rows.to(score.dtype), group, size) > 0 for rows in (right, wrong)]
    valid = segments.spread((found[0] & found[1]).to(score.dtype), group) > 0
    preferred = (1 - (count / max(max_tokens, 1)).clamp(max=1)).to(score.dtype) / spread
    positive = log_softmax_within(preferred, torch.where(right & valid, group, -1)).exp()
    log_p = log_softmax_within(score.detach() / tau, torch.where(wrong & valid, group, -1))
    negative = log_p.exp()
    constant = tau * torch.where(negative > 0, log_p, torch.zeros_like(log_p))
    per_token = (negative - positive)[:, None] * logp - (negative * constant)[:, None]
    return (per_token / count.clamp(min=1)[:, None]).masked_fill(~mask, 0.0)
