from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from truegain.core.component import component


@component("select", cite=("arXiv:2506.01347", "github.com/TianHongZXY/RLVR-Decomposed"))
def nonzero_reward(reward: Float[Tensor, "B"]) -> Float[Tensor, "B"]:
    """Keep the rows whose reward is not 0: the others leave the batch and its denominators.

    With `outcome` ``right=0`` only wrong rows train (negative sample reinforcement), with ``wrong=0`` only right ones.
    All rewards 0: nothing is kept and the step changes no weight. A NaN reward is kept, and the loop refuses it.
    Source: Zhu et al. 2025, section 3.

    >>> import torch
    >>> nonzero_reward(torch.tensor([0.0, -1.0, 0.1]))
    tensor([0., 1., 1.])
    """
    return (reward != 0).to(reward.dtype)
