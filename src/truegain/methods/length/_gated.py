"""Length and what goes with it among a group's right answers: the penalties that only a right answer can pay."""

from __future__ import annotations

import torch
from torch import Tensor

from truegain.core import segments


def lengths(mask: Tensor) -> Tensor:
    """Tokens of each row up to the policy's last one [B], a tool's before it included; 0 for a row without any."""
    places = torch.arange(1, mask.shape[1] + 1, device=mask.device)
    return (mask * places).amax(dim=1) if mask.shape[1] else torch.zeros_like(mask, dtype=torch.long).sum(dim=1)


def squashed(values: Tensor, right: Tensor, group: Tensor, ddof: int, eps: float) -> Tensor:
    """``sigmoid((x - mean) / (std + eps))`` over each group's right rows [B]; 0 for a row that is not right.

    Equal values, one alone included, give exactly 0.5.
    """
    # In double precision, so that the mean of equal numbers is theirs and eps magnifies no rounding.
    x, ids = values.double(), torch.where(right, group, -1)
    centred = x - segments.spread(segments.mean(x, ids), ids)
    count = segments.total(torch.ones_like(x), ids)
    deviation = (segments.total(centred**2, ids) / (count - ddof).clamp(min=1)).sqrt()
    return torch.where(right, torch.sigmoid(centred / (segments.spread(deviation, ids) + eps)), 0.0)
