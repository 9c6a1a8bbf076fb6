from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from truegain.core.component import component
from truegain.core.errors import SettingError


@component("reward", cite="arXiv:2510.00915")
def unbiased_by_prompt(
    reward: Float[Tensor, "B"],
    false_accept: Float[Tensor, "B"],
    false_reject: Float[Tensor, "B"],
    *,
    floor: float = 0.1,
) -> Float[Tensor, "B"]:
    """Backward correction with rates of each row's own problem: ``(r - rho0) / max(1 - rho0 - rho1, floor)``.

    Rates that differ between problems weigh their gradients by ``1 - rho0 - rho1``: a checker that misses half of the
    right answers to hard problems trains on them half as fast. This restores the weight, unless a group's own deviation
    does so anyway. ``floor`` in (0, 1] bounds what a nearly blind checker is multiplied by; below it the correction is
    no longer unbiased. A row whose rates are NaN, unknown, keeps its verdict. Raises SettingError for a floor out of
    bounds. Modifies the reward so far, which must be the verdict alone.

    >>> import torch
    >>> rates = torch.tensor([0.0, 0.1]), torch.tensor([0.0, 0.6])
    >>> unbiased_by_prompt(torch.ones(2), *rates).round()
    tensor([1., 3.])
    """
    if not 0 < floor <= 1:
        raise SettingError(f"unbiased_by_prompt: floor={floor} must be above 0 and at most 1")
    fixed = (reward - false_accept) / (1 - false_accept - false_reject).clamp(min=floor)
    return reward.where(false_accept.isnan() | false_reject.isnan(), fixed)
