from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import pad

from truegain.core import segments
from truegain.core.component import component


@component("reward", cite=("arXiv:2305.20050", "arXiv:2412.01981", "github.com/PRIME-RL/ImplicitPRM"))
def weakest_step(
    step_reward: Float[Tensor, "B S"], step: Int[Tensor, "B T"], mask: Bool[Tensor, "B T"], *, running: bool = False
) -> Float[Tensor, "B"]:
    """A row is as good as its worst step: the least of its ``step_reward``, as best-of-n with process rewards scores.

    ``running`` takes the least of the running sums instead (the published evaluation's "accumulative"). What
    ``step_reward`` holds past a row's last step is not read; a row without a step has 0; a NaN at a step that is there
    makes its row NaN, which the loop refuses. A step holds a token that the policy chose.

    >>> import torch
    >>> step = torch.tensor([[0, 0, 1, 1, 1]])
    >>> given = torch.tensor([[0.03, -0.015]])
    >>> weakest_step(given, step, step >= 0), weakest_step(given, step, step >= 0, running=True)
    (tensor([-0.0150]), tensor([0.0150]))
    """
    rows, width = step.shape[0], max(step_reward.shape[1], segments.count(step))
    inside = mask & (step >= 0)
    ids = torch.where(inside, torch.arange(rows, device=step.device)[:, None] * width + step, -1)
    there = segments.total(inside.long(), ids, rows * width).reshape(rows, width) > 0
    if not width:
        return step_reward.new_zeros(rows)
    given = pad(step_reward, (0, width - step_reward.shape[1]), value=float("nan"))
    given = torch.where(there, given, torch.zeros_like(given))
    scored = given.cumsum(dim=1) if running else given
    worst = torch.where(there, scored, torch.full_like(scored, float("inf"))).amin(dim=1)
    return torch.where(there.any(dim=1), worst, torch.zeros_like(worst))
