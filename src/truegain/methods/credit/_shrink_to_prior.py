from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from truegain.core import segments
from truegain.core.component import component
from truegain.core.errors import SettingError


@component("credit", cite="arXiv:2603.10848")
def shrink_to_prior(
    advantage: Float[Tensor, "B T"],
    reward: Float[Tensor, "B"],
    prior_value: Float[Tensor, "B T"],
    group: Int[Tensor, "B"],
    mask: Bool[Tensor, "B T"],
    *,
    variance: float = 1.0,
) -> tuple[Float[Tensor, "B T"], dict[str, Tensor]]:
    """Move the baseline from the group's mean toward a prior value of the prompt: a modifier of the credit before it.

    With k rows of mean reward v, prior V and ``variance`` s2, a bound on the variance of one reward:

        D2 = max(0, (v - V)^2 - s2 / k)        squared error of the prior, estimated
        w = D2 / (D2 + s2 / k),  b = w v + (1 - w) V,  A' = A + v - b

    After ``group_normalise(std="none")``, whose A is r - v, this is ``r - b``: few rows lean on the prior unless they
    contradict it. A prior within the noise of the mean gets all the weight. Groups whose rewards are all equal have an
    advantage too, unlike under a group's own mean. Logs ``truegain/prior_weight``, the mean of 1 - w over rows.

    V is read at the row's first policy token, in units of reward; NaN there: no prior, w = 1. For rewards of -1 and 1
    ``variance`` 1 is the bound, for 0 and 1 it is 0.25. Each group needs one V: its rows' are averaged. Raises
    SettingError unless ``variance`` is above 0. Source: V0.5 2026, the shrinkage estimator.

    >>> import torch
    >>> scores, one = torch.tensor([1.0, 1.0, -1.0, 1.0]), torch.ones(4, 1)
    >>> group = torch.zeros(4, dtype=torch.long)
    >>> shrink_to_prior(scores[:, None] - 0.5, scores, -0.4 * one, group, one.bool())[0].flatten()
    tensor([ 0.7778,  0.7778, -1.2222,  0.7778])
    """
    if not variance > 0:
        raise SettingError(f"shrink_to_prior: variance={variance}; it bounds the variance of one reward, above 0")
    counted = torch.where(mask.any(dim=1), group, -1)
    size = segments.count(group)
    first = mask & (mask.long().cumsum(dim=1) == 1)
    prior_row = torch.where(first, prior_value, torch.zeros_like(prior_value)).sum(dim=1)
    mean = segments.mean(reward, group, size)
    noise = variance / segments.total(torch.ones_like(reward), group, size).clamp(min=1)
    prior = segments.mean(prior_row, counted, size)
    known = ~prior.isnan()
    gap = torch.where(known, mean - prior, torch.zeros_like(mean))
    bias = (gap**2 - noise).clamp(min=0)
    lean = torch.where(known, noise / (bias + noise), torch.zeros_like(noise))
    shift = segments.spread(lean * gap, group)
    out = torch.where(mask, advantage + shift[:, None], torch.zeros_like(advantage))
    return out, {"truegain/prior_weight": segments.spread(lean, group)}
