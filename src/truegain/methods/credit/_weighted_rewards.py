from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from truegain.core.component import component
from truegain.core.errors import WiringError
from truegain.methods.credit._group_normalise import group_normalise


@component("credit", cite=("arXiv:2310.04373", "tedmoskovitz/ConstrainedRL4LMs constrained_ppo.py", "arXiv:2112.12228"))
def weighted_rewards(
    reward_parts: Float[Tensor, "B K"],
    group: Int[Tensor, "B"],
    mask: Bool[Tensor, "B T"],
    *,
    weights: tuple[float, ...] = (),
    std: Literal["group", "batch", "centred", "none"] = "group",
    eps: float = 1e-6,
) -> Float[Tensor, "B T"]:
    """An advantage of each named reward by itself, and their weighted sum: ``A_i = sum_k w_k A_k,i``.

    ``A_k`` is `group_normalise` of the k-th named reward (``std``, ``eps``), so that with a deviation no reward counts
    for more because its numbers are larger. ``weights`` has one number per named reward, in the order of the reward
    stage; a fold such as `multipliers` may set it. Empty: 1 for each. A weight may be negative: its reward is pushed
    down. A reward that is equal over a group adds nothing there, a group of one gets 0, and a NaN makes its group NaN
    unless its weight is 0.

    Raises WiringError when there are not as many weights as named rewards.
    Source: Moskovitz et al. 2023, the mixed advantages (there from a value head per reward); Roy et al. 2022.

    >>> import torch
    >>> parts, one = torch.tensor([[0.0, 10.0], [1.0, 0.0]]), torch.ones(2, 1, dtype=torch.bool)
    >>> weighted_rewards(parts, torch.zeros(2, dtype=torch.long), one, weights=(0.5, 1.0)).flatten().round(decimals=3)
    tensor([ 0.3540, -0.3540])
    """
    given = weights or (1.0,) * reward_parts.shape[1]
    if len(given) != reward_parts.shape[1]:
        raise WiringError(
            f"credit.weighted_rewards has {len(given)} weights for {reward_parts.shape[1]} named rewards; give one each"
        )
    out = torch.zeros(mask.shape, dtype=reward_parts.dtype, device=mask.device)
    for k, weight in enumerate(given):
        if weight:
            out = out + weight * group_normalise(reward_parts[:, k], group, mask, std=std, eps=eps)
    return out
