from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from truegain.core.component import component

_MIX = 0x9E3779B97F4A7C15 - (1 << 64)


@component("reward", cite="arXiv:2506.10947")
def random_reward(
    tokens: Int[Tensor, "B T"], mask: Bool[Tensor, "B T"], *, rate: float = 0.5, seed: int = 0, step_index: int
) -> Float[Tensor, "B"]:
    """A reward that knows nothing: 1 with probability ``rate``, decided by a hash of the row's tokens and the step.

    A control. A gain under it comes from the optimiser's own bias (sharpening), not from the reward. Identical
    completions of one step get identical rewards, so padding, row order and batch size cannot change it.

    ``rate`` in [0, 1]. Source: the random-reward control of Shao et al. 2025 (Spurious Rewards).

    >>> import torch
    >>> tokens = torch.arange(4000).reshape(2000, 2)
    >>> rewards = random_reward(tokens, torch.ones_like(tokens, dtype=torch.bool), rate=0.25, step_index=0)
    >>> abs(float(rewards.mean()) - 0.25) < 0.03
    True
    """
    state = torch.full(tokens.shape[:1], seed * 1_000_003 + step_index, dtype=torch.int64, device=tokens.device)
    for t in range(tokens.shape[1]):
        mixed = (state ^ (tokens[:, t] + 1)) * _MIX
        state = torch.where(mask[:, t], mixed ^ ((mixed >> 29) & 0x7FFFFFFFF), state)
    state = state * _MIX
    unit = ((state >> 33) & 0x7FFFFFFF).double() / 2**31
    return (unit < rate).float()
