from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from truegain.core.component import component


@component("reward", cite=("arXiv:2507.10532", "arXiv:2506.10947"))
def mistake_shared(common_mistake: Float[Tensor, "B"], *, scale: float = 1.0) -> Float[Tensor, "B"]:
    """``scale`` for a row that gives the commonest wrong answer of its problem: a reward that is wrong on purpose.

    A control. A gain under it, as under `random_reward`, is none of the reward's.

    >>> import torch
    >>> mistake_shared(torch.tensor([0.0, 1.0]))
    tensor([0., 1.])
    """
    return scale * common_mistake
