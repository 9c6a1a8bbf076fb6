"""Pairs of rows of one group that a quality level orders, shared by their loss and by its weight."""

from __future__ import annotations

from torch import Tensor


def ordered_pairs(level: Tensor, group: Tensor, counted: Tensor) -> tuple[Tensor, Tensor]:
    """Row numbers of the better and of the worse row of every ordered pair: two [N], over rows that are ``counted``.

    Better is the lower level; 1 is the best. A NaN level is ordered with nothing.
    """
    better = (
        (level[:, None] < level[None, :]) & (group[:, None] == group[None, :]) & counted[:, None] & counted[None, :]
    )
    found = better.nonzero()
    return found[:, 0], found[:, 1]


def spread_over_rows(by_row: Tensor, slope: Tensor, logp: Tensor, mask: Tensor) -> Tensor:
    """Tokens [B,T] that add up to ``by_row`` [B], with the gradient ``slope`` [B] by the mean of the row's ``logp``."""
    per_token = by_row[:, None] + slope[:, None] * (logp - logp.detach())
    return (per_token / mask.sum(dim=1, keepdim=True).clamp(min=1)).masked_fill(~mask, 0.0)
