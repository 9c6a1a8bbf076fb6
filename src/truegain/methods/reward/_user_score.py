from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from truegain.core.component import component


@component("reward", cite="TRL GRPOTrainer reward_funcs")
def user_score(score: Float[Tensor, "B"], *, scale: float = 1.0) -> Float[Tensor, "B"]:
    """``scale`` times what the user's own reward functions gave.

    >>> import torch
    >>> user_score(torch.tensor([0.5, 2.0]), scale=2.0)
    tensor([1., 4.])
    """
    return scale * score
