from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from truegain.core import segments
from truegain.core.component import component


@component("credit", cite="arXiv:2305.20050")
def at_step_ends(step_reward: Float[Tensor, "B S"], step: Int[Tensor, "B T"]) -> Float[Tensor, "B T"]:
    """Each step's number at its last token, 0 elsewhere: the target of a process reward model, which is read there.

    What ``step_reward`` holds past a row's last step is not read, and steps that it holds nothing of get NaN.

    >>> import torch
    >>> at_step_ends(torch.tensor([[0.5, 1.0]]), torch.tensor([[0, 0, 1, -1]]))
    tensor([[0.0000, 0.5000, 1.0000, 0.0000]])
    """
    out = step_reward.new_zeros(step.shape)
    ends = segments.ends(step)
    index = torch.where(ends, step, 0)
    held = index < step_reward.shape[1]
    if not step_reward.shape[1]:
        return out.masked_fill(ends, torch.nan)
    values = step_reward.gather(1, index.clamp(max=step_reward.shape[1] - 1))
    return torch.where(ends, values.masked_fill(~held, torch.nan), out)
