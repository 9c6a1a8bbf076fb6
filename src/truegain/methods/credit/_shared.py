"""What several credit components share: exact centring, and sums that run back over the policy's tokens."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad

from truegain.core import segments


def over_tokens(per_row: Tensor, mask: Tensor) -> Tensor:
    """Give each row's number [B] to its tokens [B,T]; 0 outside the mask."""
    return torch.where(mask, per_row[:, None], torch.zeros((), dtype=per_row.dtype, device=per_row.device))


def centred_within(values: Tensor, ids: Tensor) -> Tensor:
    """``values`` [B] minus the mean of their segment; exactly 0 where a segment's values are all equal.

    The mean of equal numbers may be off by rounding, and a division by a deviation near 0 would magnify that.
    """
    size = segments.count(ids)
    centred = values - segments.spread(segments.mean(values, ids, size), ids)
    first = torch.zeros(size, dtype=values.dtype, device=values.device).scatter(0, ids, values)
    differs = segments.total((values != segments.spread(first, ids)).to(values.dtype), ids, size)
    return torch.where(segments.spread(differs, ids) == 0, torch.zeros_like(centred), centred)


def on_last_token(per_row: Tensor, mask: Tensor) -> Tensor:
    """Each row's number [B] at its last policy token [B,T], 0 elsewhere; a row without one keeps nothing."""
    to_come = mask.long().flip(1).cumsum(1).flip(1)
    return over_tokens(per_row, mask & (to_come == 1))


def discounted_to_go(values: Tensor, mask: Tensor, factor: float) -> Tensor:
    """``y_t = values_t + factor * y'`` with y' the next policy token's y; tokens between two are not counted.

    Outside the mask y is that of the next policy token, 0 after the last. Log2(T) passes over [B,T] instead of a loop
    over T: the recursion is linear, so sums over windows of 1, 2, 4, ... tokens compose.
    """
    out = values.masked_fill(~mask, 0.0)
    decay = torch.where(mask, torch.as_tensor(factor, dtype=out.dtype, device=out.device), torch.ones_like(out))
    width = 1
    while width < out.shape[1]:
        out = out + decay * pad(out[:, width:], (0, width))
        decay = decay * pad(decay[:, width:], (0, width))
        width *= 2
    return out


def gae_of(reward: Tensor, value: Tensor, mask: Tensor, gamma: float, lam: float) -> Tensor:
    """Generalised advantage estimates [B,T] of outcome rewards, 0 outside the mask; see `gae`."""
    # With a factor of 0 the sum to go is the value of the policy token at or after t; one step on, that of the next.
    following = pad(discounted_to_go(value, mask, 0.0)[:, 1:], (0, 1))
    surprise = on_last_token(reward, mask) + gamma * following - value
    return discounted_to_go(surprise, mask, gamma * lam).masked_fill(~mask, 0.0)
