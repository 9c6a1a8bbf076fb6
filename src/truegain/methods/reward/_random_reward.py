from __future__ import annotations

from jaxtyping import Float, Int
from torch import Tensor

from truegain.core.component import component
from truegain.methods.reward._draws import unit_draws


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
    return (unit_draws(key, seed, step_index) < rate).float()
