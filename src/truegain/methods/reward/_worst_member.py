from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from truegain.core.component import component


@component("reward", cite=("arXiv:2310.02743", "arXiv:2312.09244"))
def worst_member(model_reward: Float[Tensor, "B M"]) -> Float[Tensor, "B"]:
    """The lowest of the reward models' scores: a completion is worth what its harshest judge says.

    ``min_k r_k``: worst-case optimisation (WCO). Members should be on one scale (`truegain fit reward-model
    --standardise`), or one that scores low throughout decides alone. A NaN from any member gives NaN, and the loop
    refuses the row by name. Source: Coste et al. 2023, equation 4.

    >>> import torch
    >>> worst_member(torch.tensor([[1.0, 0.5, 3.0]]))
    tensor([0.5000])
    """
    return model_reward.amin(dim=1)
