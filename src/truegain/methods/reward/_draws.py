"""Numbers of a row's own: a hash of (seed, step, key), whatever the row says and whoever stands beside it."""

from __future__ import annotations

import torch
from torch import Tensor

# The golden-ratio increment and multiplier of splitmix64, as signed 64-bit integers
_GAMMA = 0x9E3779B97F4A7C15 - (1 << 64)
_MIX = 0xBF58476D1CE4E5B9 - (1 << 64)


def unit_draws(key: Tensor, seed: int, step: int) -> Tensor:
    """A number in [0, 1) for each key [B], float64."""
    start = torch.full_like(key, seed * 1_000_003 + step + 1) * _GAMMA  # wraps, as it should
    state = (key ^ start) * _MIX
    state = (state ^ ((state >> 29) & 0x7FFFFFFFF)) * _MIX
    state = (state ^ ((state >> 32) & 0xFFFFFFFF)) * _MIX
    return ((state >> 33) & 0x7FFFFFFF).double() / 2**31
