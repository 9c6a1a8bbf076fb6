from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import pad

from truegain.core import segments
from truegain.core.component import component
from truegain.core.errors import SettingError


@component("select", cite=("arXiv:2509.03403", "github.com/Chenluye99/PROF"))
def process_consistent(
    correct: Float[Tensor, "B"],
    step_reward: Float[Tensor, "B S"],
    step: Int[Tensor, "B T"],
    mask: Bool[Tensor, "B T"],
    group: Int[Tensor, "B"],
    key: Int[Tensor, "B"],
    *,
    keep: int = 4,
    rank: Literal["both", "right", "wrong"] = "both",
    penalty: float = 0.0,
    most_steps: int = 10_000,
) -> Float[Tensor, "B"]:
    """Keep the rows of a group whose steps agree with their outcome, as many right as wrong where there are.

        s_i = mean over steps of step_reward - penalty * [steps <= 1 or steps >= most_steps]
        k+ + k- = keep (or what there is), k+ k- as large as it can be; an odd one out is right

    Kept are the k+ right rows with the largest s and the k- wrong ones with the smallest: process rewards choose what
    is trained on and never enter the loss, so that nothing is gained by pleasing them. ``rank="right"`` or ``"wrong"``
    ranks that side alone; the other's are chosen by ``key``, at random. Ties go by ``key`` too.

    A row is right where ``correct`` > 0.5. A group without right or without wrong rows keeps ``keep`` of what it has. A
    row without a step has a mean of 0; one with a NaN at a step that is there is never kept. ``keep`` is 1 or more,
    ``penalty`` in units of ``step_reward``. Raises SettingError for knobs out of bounds.
    Source: Ye et al. 2025 (PROF), section 3.

    >>> import torch
    >>> row = torch.arange(4)
    >>> means, right = torch.tensor([[0.9], [0.5], [0.7], [0.2]]), torch.tensor([1.0, 1.0, 0.0, 0.0])
    >>> process_consistent(right, means, row[:, None] * 0, row[:, None] >= 0, row * 0, row, keep=2)
    tensor([1., 0., 0., 1.])
    """
    if keep < 1 or rank not in ("both", "right", "wrong"):
        raise SettingError(f"process_consistent: keep={keep} must be 1 or more, rank={rank!r} both, right or wrong")
    score = _row_scores(step_reward, step, mask, penalty, most_steps)
    usable, right = ~score.isnan(), correct > 0.5
    place = _places(score.nan_to_num(), right, usable, group, key, rank)
    size = segments.count(group)
    number = [segments.total((usable & side).to(score.dtype), group, size) for side in (right, ~right)]
    most_right = torch.minimum(number[0], (keep - number[1]).clamp(min=(keep + 1) // 2))
    most_wrong = torch.minimum(number[1], keep - most_right)
    allowed = torch.where(right, segments.spread(most_right, group), segments.spread(most_wrong, group))
    return (usable & (place < allowed)).to(score.dtype)


def _row_scores(step_reward: Tensor, step: Tensor, mask: Tensor, penalty: float, most_steps: int) -> Tensor:
    """Mean step reward of each row less the penalty, [B]; NaN where a step that is there has a NaN."""
    rows, width = step.shape[0], max(step_reward.shape[1], segments.count(step))
    inside = mask & (step >= 0)
    ids = torch.where(inside, torch.arange(rows, device=step.device)[:, None] * width + step, -1)
    there = segments.total(inside.long(), ids, rows * width).reshape(rows, width) > 0
    # A step beyond the table has no verdict.
    step_reward = pad(step_reward, (0, width - step_reward.shape[1]), value=float("nan"))
    count = there.sum(dim=1)
    given = torch.where(there, step_reward, torch.zeros_like(step_reward))
    mean = given.sum(dim=1) / count.clamp(min=1)
    return mean - penalty * ((count <= 1) | (count >= most_steps)).to(mean.dtype)


def _places(score: Tensor, right: Tensor, usable: Tensor, group: Tensor, key: Tensor, rank: str) -> Tensor:
    """Each row's place, from 0, among the rows of its group with its outcome: the most consistent first."""
    consistent = torch.where(right, -score, score)
    side = torch.full_like(right, rank == "both") | (right == (rank == "right"))
    first = torch.where(side, consistent, key.to(score.dtype))
    second = torch.where(side, key.to(score.dtype), consistent)
    kind = torch.where(usable, group * 2 + right.long(), -1)
    order = second.argsort(stable=True)
    order = order[first[order].argsort(stable=True)]
    order = order[kind[order].argsort(stable=True)]
    sizes = segments.total(torch.ones_like(kind), kind)
    # Rows that cannot be used, kind -1, stand before all others.
    start = torch.cat([sizes.new_zeros(1), sizes.cumsum(0)])[:-1] + (kind < 0).sum()
    position = torch.empty_like(order)
    position[order] = torch.arange(len(order), device=order.device)
    return position - segments.spread(start, kind)
