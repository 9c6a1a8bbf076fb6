from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from truegain.core import segments
from truegain.core.component import component
from truegain.core.errors import SettingError

How = Literal["min", "max", "prod", "geometric_mean", "mean", "last", "mean_logit", "mean_odds"]


@component("reward", cite=("arXiv:2410.01729", "github.com/kimsh0507/RewardMATH_official", "arXiv:2305.20050"))
def aggregate_steps(
    step_reward: Float[Tensor, "B S"],
    step: Int[Tensor, "B T"],
    mask: Bool[Tensor, "B T"],
    *,
    how: How = "min",
    scale: float = 1.0,
    eps: float = 1e-6,
) -> Float[Tensor, "B"]:
    """One reward of a row from those of its steps: how a process reward model judges a whole solution.

    With ``p_1..p_S`` the rewards of the steps in which the policy chose a token: ``min``, ``max``, ``mean``, ``last``,
    ``prod``, ``geometric_mean`` = prod^(1/S), ``mean_logit`` = sigmoid(mean log(p / (1 - p))), ``mean_odds`` =
    max(0, mean(p / (1 - p))); times ``scale``.

    Three are for probabilities: ``geometric_mean`` takes p below 0 for 0; in ``mean_logit`` and ``mean_odds`` p and
    1 - p are ``eps`` at least. A row without steps gets 0. A NaN at a step of the policy makes the reward NaN, which
    the loop refuses; a step without a number (more steps than ``step_reward`` has columns) is left out. Raises
    SettingError for an unknown ``how``. Source: Kim et al. 2024 (RewardMATH), `src/evaluation/eval.py`; Lightman et al.
    2023 for prod.

    >>> import torch
    >>> step = torch.tensor([[0, 0, 1, 2], [0, -1, -1, -1]])
    >>> given = torch.tensor([[0.5, 0.9, 0.8], [0.25, 9.0, 9.0]])
    >>> [aggregate_steps(given, step, step >= 0, how=how).tolist()[0] for how in ("min", "last")]
    [0.5, 0.800000011920929]
    """
    if how not in How.__args__:
        raise SettingError(f"aggregate_steps: how={how!r}; it is one of {', '.join(How.__args__)}")
    rows, width = step_reward.shape
    if not width:
        return step_reward.new_zeros(rows)
    row = torch.arange(rows, device=step.device)[:, None]
    ids = torch.where(mask & (step >= 0) & (step < width), row * width + step, -1)
    present = (segments.total(torch.ones_like(ids), ids, rows * width) > 0).reshape(rows, width)
    return scale * torch.where(present.any(dim=1), _joined(step_reward, present, how, eps), 0.0)


def _joined(p: Tensor, present: Tensor, how: How, eps: float) -> Tensor:
    """The joined value of each row's present steps; anything for a row without one."""

    def mean(values: Tensor) -> Tensor:
        return values.masked_fill(~present, 0.0).sum(dim=1) / present.sum(dim=1).clamp(min=1)

    if how == "min":
        return p.masked_fill(~present, float("inf")).amin(dim=1)
    if how == "max":
        return p.masked_fill(~present, float("-inf")).amax(dim=1)
    if how == "prod":
        return p.masked_fill(~present, 1.0).prod(dim=1)
    if how == "last":
        places = torch.arange(p.shape[1], device=p.device)
        return p.gather(1, torch.where(present, places, 0).amax(dim=1, keepdim=True))[:, 0]
    if how == "geometric_mean":
        return mean(p.clamp(min=0.0).log()).exp()
    edge = max(eps, torch.finfo(p.dtype).eps)
    # 1 - p is clipped by itself, as 1 - edge has few digits in float32.
    odds = p.clamp(edge, 1.0) / (1 - p).clamp(edge, 1.0)
    if how == "mean_logit":
        return mean(odds.log()).sigmoid()
    return mean(odds) if how == "mean_odds" else mean(p)
