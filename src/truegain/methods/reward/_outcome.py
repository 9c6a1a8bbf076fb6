from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from truegain.core.component import component


@component("reward", cite="arXiv:2402.03300")
def outcome(correct: Float[Tensor, "B"], *, right: float = 1.0, wrong: float = 0.0) -> Float[Tensor, "B"]:
    """Outcome reward of an exact checker: ``wrong + (right - wrong) * correct``.

    ``correct`` is 0 or 1 (a fraction is interpolated). ``right`` and ``wrong`` are the rewards of the two outcomes.

    Source: rule-based outcome reward, Shao et al. 2024 (DeepSeekMath), section 4.

    >>> import torch
    >>> outcome(torch.tensor([1.0, 0.0]), wrong=-1.0)
    tensor([ 1., -1.])
    """
    return wrong + (right - wrong) * correct
