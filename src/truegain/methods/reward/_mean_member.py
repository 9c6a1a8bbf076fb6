from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from truegain.core.component import component


@component("reward", cite=("arXiv:2310.02743", "arXiv:2312.09244"))
def mean_member(model_reward: Float[Tensor, "B M"]) -> Float[Tensor, "B"]:
    """Mean of the reward models' scores: errors that the members do not share shrink by averaging, shared ones stay.

    ``mean_k r_k``. Members should be on one scale (`truegain fit reward-model --standardise`). A NaN from any member
    gives NaN, and the loop refuses the row by name.
    Source: Coste et al. 2023 and Eisenstein et al. 2023, "mean" ensembles.

    >>> import torch
    >>> mean_member(torch.tensor([[1.0, 0.5, 3.0]]))
    tensor([1.5000])
    """
    return model_reward.mean(dim=1)
