from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from truegain.core import segments
from truegain.core.component import component
from truegain.core.errors import SettingError
from truegain.methods.credit._steps import fitted, steps_of, to_go


@component("credit", cite=("arXiv:2504.15275", "github.com/CJReinforce/PURE"))
def min_form(
    step_reward: Float[Tensor, "B S"],
    step: Int[Tensor, "B T"],
    group: Int[Tensor, "B"],
    mask: Bool[Tensor, "B T"],
    *,
    temperature: float = 0.1,
    baseline: Literal["token", "step", "none"] = "token",
) -> Float[Tensor, "B T"]:
    """Process rewards whose sum is about their minimum, minus what the siblings earn per token, summed to the end.

        w = softmax(-p / T) over a row's steps,  r*_s = w_s p_s          sum_s r*_s -> min_s p_s as T -> 0
        b = sum_{j != i} sum_s r*_js / sum_{j != i} n_j                  n: tokens, or steps with ``baseline="step"``
        A_t = sum over steps from t's own on of (r*_s - b * tokens of s)

    A row is worth its worst step: a good step more changes nothing, so none pays to be added. Tokens up to the worst
    step carry about the minimum, those after it about 0.

    ``step_reward`` [B,S] p of each step, best in [-1, 1] (``2 q - 1`` for a probability q); what it holds past a row's
    last step is not read. ``temperature`` T above 0, in units of p: 0.1 in the paper; inf gives the mean. Without
    siblings, or where they have no step, b is 0. Tokens outside every step get 0 and count nowhere. A NaN at a step
    that is there makes its row and its siblings NaN, which the loop refuses.

    Raises SettingError for knobs out of bounds. Source: Cheng et al. 2025 (PURE), section 3; the published trainer.

    >>> import torch
    >>> step, given = torch.tensor([[0, 1, 2, 3]]), torch.tensor([[0.6, 0.2, -0.5, 0.4]])
    >>> min_form(given, step, torch.zeros(1, dtype=torch.long), step >= 0).round(decimals=3) + 0.0
    tensor([[-0.4990, -0.4990, -0.4990,  0.0000]])
    """
    if temperature <= 0 or baseline not in ("token", "step", "none"):
        raise SettingError(
            f"min_form: temperature={temperature} must be above 0, baseline={baseline!r} token, step or none"
        )
    steps = steps_of(step, mask, step_reward.dtype, step_reward.shape[1])
    given = fitted(step_reward, steps)
    # A row without a step has nothing to weigh: its softmax runs over zeros, and what it gives is cut.
    logits = (-given / temperature).masked_fill(~steps.present & steps.present.any(1, keepdim=True), float("-inf"))
    earned = torch.where(steps.present, logits.softmax(dim=1) * given, torch.zeros_like(given))
    if baseline != "none":
        units = steps.tokens if baseline == "token" else steps.present.to(given.dtype)
        earned = earned - _siblings_rate(earned, units, group)[:, None] * units
    return steps.to_tokens(to_go(earned, steps, 1.0))


def _siblings_rate(earned: Tensor, units: Tensor, group: Tensor) -> Tensor:
    """What the other rows of a group earn by the unit [B]; 0 where they have none."""
    sums, counts = earned.sum(dim=1), units.sum(dim=1)
    others = segments.spread(segments.total(sums, group), group) - sums
    number = segments.spread(segments.total(counts, group), group) - counts
    return torch.where(number > 0, others / number.clamp(min=1), others * 0.0)
