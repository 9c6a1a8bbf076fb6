from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from truegain.core import segments
from truegain.core.component import component
from truegain.core.errors import SettingError


@component("reward", cite="arXiv:2601.20649")
def steps_if_unsolved(
    reward: Float[Tensor, "B"],
    step_reward: Float[Tensor, "B S"],
    correct: Float[Tensor, "B"],
    group: Int[Tensor, "B"],
    *,
    solved: float = 1.0,
    sharpness: float = 8.0,
    middle: float = 0.5,
    average: bool = True,
    start: float = 0.0,
    progress: float,
) -> tuple[Float[Tensor, "B"], dict[str, Tensor]]:
    """Where no row of a group is right, the rewards of the steps replace that of the outcome: a modifier.

        w_i = sigmoid(sharpness * (i / m - middle)),  R = sum_i w_i step_reward_i / sum_i w_i     i = 1..m

    A group in which a row has ``correct >= solved`` keeps the reward it has, so the steps speak only where
    the outcome cannot tell rows apart. Late steps weigh more: ``sharpness`` > 0, ``middle`` in [0, 1]. With ``average``
    off the division is left out. Until the share ``start`` of the run is done nothing is replaced. Steps that are NaN
    are not there; a row without steps has the sum 0.

    Logs ``truegain/unsolved`` (share of rows whose reward was replaced). Raises SettingError for a sharpness of 0 or
    less. Source: Zhong et al. 2026 (P2S), section 3.

    >>> import torch
    >>> steps, none = torch.tensor([[0.3, 1.2, 0.8, -0.5]]), torch.zeros(1)
    >>> steps_if_unsolved(none, steps, none, torch.zeros(1, dtype=torch.long), average=False, progress=0.0)[0]
    tensor([0.8494])
    """
    if sharpness <= 0:
        raise SettingError(f"steps_if_unsolved: sharpness={sharpness} must be above 0")
    there = ~step_reward.isnan()
    number = there.to(step_reward.dtype).cumsum(1)
    count = there.sum(dim=1, keepdim=True).clamp(min=1)
    weight = torch.sigmoid(sharpness * (number / count - middle)) * there
    total = (weight * step_reward.nan_to_num(0.0)).sum(dim=1)
    if average:
        total = total / weight.sum(dim=1).clamp(min=1e-6)
    right = segments.spread(segments.total((correct >= solved).to(reward.dtype), group), group)
    replaced = (right == 0) & (progress >= start)
    return torch.where(replaced, total, reward), {"truegain/unsolved": replaced.to(reward.dtype)}
