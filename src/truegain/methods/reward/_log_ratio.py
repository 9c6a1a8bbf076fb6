"""Rewards of a language model: its log-ratio to what it was trained from, token by token, and by the step."""

from __future__ import annotations

import torch
from torch import Tensor

from truegain.core import segments
from truegain.core.errors import SettingError


def log_ratio(rm_logp: Tensor, rm_ref_logp: Tensor, mask: Tensor, beta: float, who: str) -> Tensor:
    """``beta * (rm_logp - rm_ref_logp)`` [B,T], 0 outside the mask. Raises SettingError for a beta of 0 or less."""
    if not beta > 0:
        raise SettingError(f"{who}: beta={beta} must be above 0")
    return beta * (rm_logp - rm_ref_logp).masked_fill(~mask, 0.0)


def by_step(values: Tensor, step: Tensor) -> Tensor:
    """Sums [B,S] of token values [B,T] up to each step's end from the end before it, NaN past a row's last step.

    So a token between two steps counts to the later one, what follows the last step to it, and a row with a step loses
    nothing. Step ids rise along a row; one that is left out has 0.
    """
    rows, width = step.shape[0], segments.count(step)
    if not step.shape[1] or not width:
        return values.new_full((rows, width), float("nan"))
    ahead = torch.where(step >= 0, step, width).flip(1).cummin(dim=1).values.flip(1)
    last = step.amax(dim=1, keepdim=True)
    ids = torch.arange(rows, device=step.device)[:, None] * width + torch.minimum(ahead, last)
    sums = segments.total(values, torch.where(last >= 0, ids, -1), rows * width).reshape(rows, width)
    return sums.masked_fill(torch.arange(width, device=step.device) > last, float("nan"))
