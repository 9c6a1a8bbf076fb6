from __future__ import annotations

from typing import Literal

from jaxtyping import Bool, Float, Int
from torch import Tensor

from truegain.core.component import component
from truegain.core.errors import SettingError
from truegain.methods.credit._steps import fitted, standardised, steps_of, to_go

POOLS = ("none", "group", "batch", "place")


@component("credit", cite=("arXiv:2305.20050", "arXiv:2402.03300", "arXiv:2504.15275"))
def step_returns(
    step_reward: Float[Tensor, "B S"],
    step: Int[Tensor, "B T"],
    group: Int[Tensor, "B"],
    mask: Bool[Tensor, "B T"],
    *,
    gamma: float = 1.0,
    before: Literal["none", "group", "batch", "place"] = "none",
    after: Literal["none", "group", "batch", "place"] = "none",
    scale: bool = True,
    ddof: int = 1,
    eps: float = 1e-6,
) -> Float[Tensor, "B T"]:
    """Rewards of steps, standardised, summed to the row's end, given to every token of the step.

    ``r' = (r - mean) / (std + eps)`` over the pool ``before``; ``R_s = r'_s + gamma R_{s+1}``; ``A = (R - mean) / (std
    + eps)`` over the pool ``after``; all policy tokens of step s get A_s.

    Pools of steps: ``group``, all of a group's rows; ``batch``; ``place``, those of the group that stand at the same
    place; ``none`` leaves the numbers. ``scale=False`` only takes the mean off. With ``before="group"`` this is the
    process supervision of GRPO; with no pool the plain sum that PURE warns of; ``gamma=0`` pays each step for itself.

    ``gamma`` in [0, 1] per step. What ``step_reward`` holds past a row's last step is not read; a step without a policy
    token is skipped. Equal numbers of a pool, one alone included, give exactly 0. A NaN at a step that is there makes
    its pool NaN, which the loop refuses. Raises SettingError for an unknown pool.
    Source: Shao et al. 2024, section 4.1.3; Lightman et al. 2023 for rewards of steps.

    >>> import torch
    >>> step, given = torch.tensor([[0, 0, 1, -1]]), torch.tensor([[1.0, 0.5]])
    >>> step_returns(given, step, torch.zeros(1, dtype=torch.long), step >= 0, gamma=0.5)
    tensor([[1.2500, 1.2500, 0.5000, 0.0000]])
    """
    if before not in POOLS or after not in POOLS:
        raise SettingError(f"step_returns: before={before!r}, after={after!r}; each is none, group, batch or place")
    steps = steps_of(step, mask, step_reward.dtype, step_reward.shape[1])
    given = standardised(fitted(step_reward, steps), steps, group, before, scale=scale, ddof=ddof, eps=eps)
    returns = to_go(given, steps, gamma)
    return steps.to_tokens(standardised(returns, steps, group, after, scale=scale, ddof=ddof, eps=eps))
