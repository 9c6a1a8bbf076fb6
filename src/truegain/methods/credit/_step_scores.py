from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from truegain.core import segments
from truegain.core.component import component
from truegain.core.errors import SettingError
from truegain.methods.credit._steps import fitted, steps_of


@component("credit", cite=("arXiv:2601.21912", "github.com/lilinwz/ProRAG"))
def step_scores(
    step_reward: Float[Tensor, "B S"],
    step: Int[Tensor, "B T"],
    group: Int[Tensor, "B"],
    mask: Bool[Tensor, "B T"],
    *,
    scale: float = 1.0,
    squash: bool = True,
    pool: Literal["group", "batch"] = "group",
    eps: float = 1e-8,
) -> Float[Tensor, "B T"]:
    """The process channel of a dual advantage: what a model makes of each step, standardised over tokens.

        q_t = sigmoid(step_reward of t's step),  A_t = scale * (q_t - mean) / sqrt(var + eps)

    Mean and population variance are over all policy tokens of steps in the group's rows (``pool="batch"``: in all
    rows), so that long steps and rows count more. Add it to the outcome channel: ``credit=(group_normalise,
    step_scores)``. ``squash=False`` takes q as it is. ``scale`` is the paper's beta (0.3 to 0.5); 0 leaves the outcome.
    Tokens outside a step, a tool's among them, get 0. Equal scores of a pool, one step alone included, give exactly 0.
    A NaN at a step of the policy makes its pool NaN, which the loop refuses; past a row's last step it is ignored.

    Raises SettingError for an unknown ``pool``. Source: ProRAG 2026, the advantages of its RL stage.

    >>> import torch
    >>> step = torch.tensor([[0, 0, 1], [0, 0, -1]])
    >>> scores = torch.tensor([[3.0, 1.0], [1.0, torch.nan]])
    >>> step_scores(scores, step, torch.zeros(2, dtype=torch.long), step >= 0, squash=False).round(decimals=3)
    tensor([[ 1.2250,  1.2250, -0.8160],
            [-0.8160, -0.8160,  0.0000]])
    """
    if pool not in ("group", "batch"):
        raise SettingError(f"step_scores: pool={pool!r}; it is group or batch")
    steps = steps_of(step, mask, step_reward.dtype, step_reward.shape[1])
    given = fitted(step_reward, steps)
    values = steps.to_tokens(given.sigmoid() if squash else given)
    inside = steps.ids >= 0
    own = group[:, None].expand_as(values) if pool == "group" else torch.zeros_like(steps.ids)
    ids = torch.where(inside, own, -1)
    size = segments.count(ids)
    centred = torch.where(inside, values - segments.spread(segments.mean(values, ids, size), ids), 0.0)
    variance = segments.spread(segments.mean(centred**2, ids, size), ids)
    # The mean of equal numbers may be off by rounding, and a deviation near 0 would magnify that.
    first = torch.zeros(size, dtype=values.dtype, device=values.device).scatter(0, ids[inside], values[inside])
    differs = segments.total((values != segments.spread(first, ids)).to(values.dtype), ids, size)
    flat = segments.spread(differs, ids) == 0
    out = torch.where(flat, torch.zeros_like(centred), centred) * (variance + eps).rsqrt()
    return scale * torch.where(inside, out, torch.zeros_like(out))
