from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from truegain.core import segments
from truegain.core.component import component
from truegain.core.errors import SettingError


@component("reward", cite="arXiv:2505.07686")
def earliest_right(
    correct: Float[Tensor, "B"],
    group: Int[Tensor, "B"],
    cut: Int[Tensor, "B"],
    mask: Bool[Tensor, "B T"],
    *,
    decay: float = 2.0,
) -> Float[Tensor, "B"]:
    """Of a path and the exits from it, the earliest right one earns 1, the next right one 1 / decay, and so on.

    A group is in the order of ``cut``, the rows that are no forks (-1) last: ``r_i = decay ** -(number of right rows at
    earlier places)`` for a right row, else 0. A wrong early exit uses up no level; rows at one place share theirs.
    ``decay`` 1 is the plain outcome, infinity pays the earliest right row alone. A row is right from ``correct`` 0.5
    on; one without a token counts like any other. A group of one earns its outcome. Raises SettingError for a ``decay``
    below 1. Source: Dai et al. 2025 (S-GRPO), section 3.3.

    >>> import torch
    >>> right, cut = torch.tensor([0.0, 1.0, 1.0, 0.0, 1.0]), torch.tensor([2, 5, 9, 14, -1])
    >>> earliest_right(right, torch.zeros(5, dtype=torch.long), cut, torch.ones(5, 1, dtype=torch.bool))
    tensor([0.0000, 1.0000, 0.5000, 0.0000, 0.2500])
    """
    if not decay >= 1:
        raise SettingError(f"earliest_right: decay={decay}; it is 1 or more")
    right = (correct >= 0.5).double()
    last = cut.max().clamp(min=-1) + 1
    place = torch.where(cut < 0, last, cut)
    # Numbered by group, then by place: right rows before a number, less those of earlier groups.
    ids = segments.dense(group * (last + 1) + place)
    here, whole = segments.total(right, ids), segments.total(right, group)
    rank = segments.spread(here.cumsum(0) - here, ids) - segments.spread(whole.cumsum(0) - whole, group)
    return torch.where(right > 0, decay**-rank, 0.0).to(correct.dtype)
