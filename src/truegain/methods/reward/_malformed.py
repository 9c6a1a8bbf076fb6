from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from truegain.core.component import component


@component("reward", cite=("arXiv:2510.14967", "arXiv:2601.20649"))
def malformed(reward: Float[Tensor, "B"], answered: Float[Tensor, "B"], *, value: float = -1.0) -> Float[Tensor, "B"]:
    """``value`` for a completion without one well-formed answer, whatever it had: a modifier of the reward so far.

    ``answered`` is 1 where there is such an answer. ``value`` in units of reward: -1 in P2S, -2 in IGPO. Put it last,
    so that nothing is added to it. Source: Wang et al. 2025 (IGPO), section 3; P2S, the hierarchy of its rewards.

    >>> import torch
    >>> malformed(torch.tensor([1.0, 0.5]), torch.tensor([1.0, 0.0]))
    tensor([ 1., -1.])
    """
    return torch.where(answered > 0, reward, torch.full_like(reward, value))
