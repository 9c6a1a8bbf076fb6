from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from truegain.core.component import component
from truegain.core.errors import SettingError

MEAN = "truegain/running_reward"


@component("reward", cite=("arXiv:2410.09724", "SeanLeng1/Reward-Calibration calibrated_experience_maker.py"))
def reward_sureness(
    reward: Float[Tensor, "B"],
    confidence: Float[Tensor, "B"],
    *,
    weight: float = 2.0,
    form: Literal["difference", "threshold"] = "difference",
    alpha: float = 0.1,
    mean: float = 0.0,
    bound: float = 10.0,
) -> tuple[Float[Tensor, "B"], dict[str, Tensor]]:
    """Pay for confidence where the answer is better than usual, and charge for it where it is worse: a modifier.

    With r the reward so far, cut to [-bound, bound], and ``mu = alpha * mean_batch(r) + (1 - alpha) * mean``:

    - ``difference``: ``r + weight * (r - mu) * (confidence - 1/2)``;
    - ``threshold``: ``r + weight * |r| * (confidence - 1/2)`` where r >= mu, else minus it (the source: weight 0.5).

    ``mean`` is mu of the step before, which the fold `carry` sets from the logged ``truegain/running_reward``; at first
    it should be about the mean of the reward before training. A confidence of 1/2 changes nothing, nor does ``weight``
    0. r should not depend on what is said of confidence, as a checker's verdict does not: reward models prefer
    confident wording. A NaN reward makes the batch NaN, which the loop refuses; no rows give none.

    Raises SettingError for an unknown ``form``, an ``alpha`` outside [0, 1], or a ``bound`` that is not positive.
    Source: Leng et al. 2024, PPO-C.

    >>> import torch
    >>> scores, sure = torch.tensor([1.0, -0.5, 0.2]), torch.tensor([0.9, 0.8, 0.2])
    >>> reward_sureness(scores, sure)[0]
    tensor([ 1.7813, -0.8140,  0.0940])
    """
    if form not in ("difference", "threshold") or not 0 <= alpha <= 1 or not bound > 0:
        raise SettingError(f"reward_sureness: form={form!r}, alpha={alpha}, bound={bound}; see its docstring")
    r = reward.clamp(-bound, bound)
    mu = alpha * r.mean() + (1 - alpha) * mean if len(r) else r.new_tensor(mean)
    lean = weight * (confidence - 0.5)
    if form == "difference":
        return r + lean * (r - mu), {MEAN: mu}
    return r + lean * torch.where(r >= mu, r.abs(), -r.abs()), {MEAN: mu}
