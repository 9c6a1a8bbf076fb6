from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import pad

from truegain.core.component import component


@component("credit", cite=("arXiv:2504.15275", "github.com/CJReinforce/PURE"))
def spare_separators(
    advantage: Float[Tensor, "B T"], step: Int[Tensor, "B T"], mask: Bool[Tensor, "B T"]
) -> Float[Tensor, "B T"]:
    """No credit for the last token of a step that another step follows: a modifier of the credit before it.

    That token is the separator (a line's end). Left unpaid, how often steps are cut is nothing the reward can teach:
    it closes the way to more reward through formatting alone. With a tokenizer that melts the separator into a longer
    token, that token is spared. Rows of one step and tokens outside every step keep what they have.

    Source: Cheng et al. 2025 (PURE), the published trainer.

    >>> import torch
    >>> step = torch.tensor([[0, 0, 1, 1]])
    >>> spare_separators(torch.ones(1, 4), step, step >= 0)
    tensor([[1., 0., 1., 1.]])
    """
    inside = mask & (step >= 0)
    width = step.shape[1]
    places = torch.where(inside, torch.arange(width, device=step.device), width)
    # The place of the next policy token, whatever stands between; width after the last one.
    ahead = pad(places, (0, 1), value=width).flip(1).cummin(dim=1).values.flip(1)[:, 1:]
    following = pad(step, (0, 1), value=-1).gather(1, ahead)
    separator = inside & (following >= 0) & (following != step)
    return torch.where(mask & ~separator, advantage, torch.zeros_like(advantage))
