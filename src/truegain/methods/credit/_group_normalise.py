from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from truegain.core import segments
from truegain.core.component import component
from truegain.core.errors import SettingError


@component("credit", cite=("arXiv:2402.03300", "verl compute_grpo_outcome_advantage", "TRL GRPOTrainer"))
def group_normalise(
    reward: Float[Tensor, "B"],
    group: Int[Tensor, "B"],
    mask: Bool[Tensor, "B T"],
    *,
    std: Literal["group", "batch", "none"] = "group",
    ddof: int = 1,
    eps: float = 1e-6,
    singleton: Literal["zero", "raw"] = "zero",
) -> Float[Tensor, "B T"]:
    """Group-relative advantage, the same for every token of a row.

    ``A_i = (r_i - mean_g) / (std + eps)`` over the rows of i's group g.

    ``std``: divide by the deviation of the group, of the whole batch, or by nothing (Dr. GRPO).
    ``ddof``: 1 is the sample deviation (TRL, verl), 0 the population's. ``eps``: verl 1e-6, TRL 1e-4.
    ``singleton``: what a group of one row gets: 0 (TRL), or its raw reward (verl). A group of equal rewards gets
    exactly 0. A NaN reward makes its group NaN, which the loop refuses before an update.

    Raises SettingError for an unknown ``std`` or ``singleton``.
    Source: Shao et al. 2024, equation 3's advantage; the knobs are where TRL 1.16 and verl 0.9 differ.

    >>> import torch
    >>> scores, one = torch.tensor([1.0, 0.0, 0.0, 0.0]), torch.ones(4, 1, dtype=torch.bool)
    >>> group_normalise(scores, torch.zeros(4, dtype=torch.long), one).flatten().round(decimals=3).tolist()
    [1.5, -0.5, -0.5, -0.5]
    """
    if std not in ("group", "batch", "none") or singleton not in ("zero", "raw"):
        raise SettingError(f"group_normalise: std={std!r}, singleton={singleton!r}; see its docstring for the choices")
    size = segments.total(torch.ones_like(reward), group)
    centred = reward - segments.spread(segments.mean(reward, group), group)
    # Equal rewards must give exactly 0: their mean may be off by rounding, and eps would magnify that.
    centred = torch.where(_equal(reward, group, size.numel()), torch.zeros_like(centred), centred)
    if std == "group":
        scatter = segments.total(centred**2, group) / (size - ddof).clamp(min=1)
        centred = centred / (segments.spread(scatter.sqrt(), group) + eps)
    elif std == "batch":
        rows = reward.numel()
        scatter = ((reward - reward.mean()) ** 2).sum() / max(rows - ddof, 1)
        centred = centred / (scatter.sqrt() + eps)
    if singleton == "raw":
        centred = torch.where(segments.spread(size, group) == 1, reward, centred)
    return torch.where(mask, centred[:, None], torch.zeros((), dtype=centred.dtype, device=centred.device))


def _equal(reward: Tensor, group: Tensor, size: int) -> Tensor:
    """Whether all rewards of a row's group are equal, per row."""
    first = torch.zeros(size, dtype=reward.dtype, device=reward.device)
    first = first.scatter(0, group, reward)
    differs = segments.total((reward != segments.spread(first, group)).to(reward.dtype), group, size)
    return segments.spread(differs, group) == 0
