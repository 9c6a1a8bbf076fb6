from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from truegain.core.component import component


@component("reward", cite="arXiv:2312.09244")
def median_member(model_reward: Float[Tensor, "B M"]) -> Float[Tensor, "B"]:
    """The middle one of the reward models' scores; of an even number, the mean of the two in the middle.

    One member that is fooled, however badly, does not move it. Members should be on one scale. A NaN from any member
    gives NaN, and the loop refuses the row by name. Source: Eisenstein et al. 2023, section 4.

    >>> import torch
    >>> median_member(torch.tensor([[1.0, 0.5, 30.0], [0.0, 2.0, 1.0]]))
    tensor([1., 1.])
    """
    members = model_reward.shape[1]
    ordered = model_reward.sort(dim=1).values  # NaN comes last
    middle = (ordered[:, (members - 1) // 2] + ordered[:, members // 2]) / 2
    return torch.where(ordered[:, -1].isnan(), ordered[:, -1], middle)
