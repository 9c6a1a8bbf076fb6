from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from truegain.core.component import component

# The golden-ratio increment and multiplier of splitmix64, as signed 64-bit integers
_GAMMA = 0x9E3779B97F4A7C15 - (1 << 64)
_MIX = 0xBF58476D1CE4E5B9 - (1 << 64)


@component("reward", cite="arXiv:2506.10947")
def random_reward(key: Int[Tensor, "B"], *, rate: float = 0.5, seed: int = 0, step_index: int) -> Float[Tensor, "B"]:
    """A reward that knows nothing: 1 with probability ``rate``, drawn for each row by itself.

    A control. A gain under it comes from the optimiser's own bias (sharpening), not from the reward. The draw is a hash
    of (seed, step, key), so it depends neither on what the row says nor on the rows beside it.

    ``rate`` in [0, 1]. Source: the random-reward control of Shao et al. 2025 (Spurious Rewards).

    >>> import torch
    >>> rewards = random_reward(torch.arange(4000), step_index=0)
    >>> abs(float(rewards.mean()) - 0.5) < 0.03
    True
    """
    start = torch.full_like(key, seed * 1_000_003 + step_index + 1) * _GAMMA  # wraps, as it should
    state = (key ^ start) * _MIX
    state = (state ^ ((state >> 29) & 0x7FFFFFFFF)) * _MIX
    state = (state ^ ((state >> 32) & 0xFFFFFFFF)) * _MIX
    unit = ((state >> 33) & 0x7FFFFFFF).double() / 2**31
    return (unit < rate).float()
