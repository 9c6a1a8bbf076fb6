from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from truegain.core import segments
from truegain.core.component import component
from truegain.core.errors import SettingError
from truegain.methods.length._gated import lengths


@component("credit", cite=("arXiv:2509.25827", "github.com/pixas/DECS"))
def decoupled_length(
    correct: Float[Tensor, "B"],
    has_answer: Float[Tensor, "B S"],
    step: Int[Tensor, "B T"],
    group: Int[Tensor, "B"],
    mask: Bool[Tensor, "B T"],
    *,
    beta: float = 0.1,
    singleton: Literal["zero", "raw"] = "zero",
    eps: float = 1e-6,
    max_tokens: int,
) -> tuple[Float[Tensor, "B T"], dict[str, Tensor]]:
    """Length costs only after the answer is there: what leads to it keeps the whole reward, whatever the length.

    The necessary prefix of a right row ends with its first step that ``has_answer``; the steps after it, [u, v) from
    the first token to the last, are redundant. With s the outcome and l the row's length:

        R[i,t] = s_i * (1 + beta)              at every place, past the row's end too
        R[i,t] = s_i + beta * (1 - l_i / T)    for t in [u_i, v_i) of a right row, T = ``max_tokens``
        A[i,t] = (R[i,t] - mean_j R[j,t]) / (std_j R[j,t] + eps)   over the rows j of the group, at the same place

    A token outside every step, as those of the answer, is never redundant unless it lies within [u, v). A row whose
    steps never have the answer, or are all NaN, is necessary throughout. ``beta`` >= 0; 0 gives GRPO's advantage.
    std is the sample's. ``singleton``: what a group of one gets: 0, or its R (the source). Equal rewards at a place
    give exactly 0. Logs ``truegain/redundant``, the share of right rows' tokens that are redundant.

    Raises SettingError for a negative ``beta``. Source: Jiang et al. 2025 (DECS), and its published code.

    >>> import torch
    >>> step = torch.tensor([[0, 0, 0, 1, 1], [0, 0, 0, -1, -1], [0, 0, 0, 0, 0]])
    >>> known, right = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 0.0]]), torch.tensor([1.0, 1.0, 0.0])
    >>> decoupled_length(right, known, step, torch.zeros(3, dtype=torch.long), step >= 0, max_tokens=5)[0][0]
    tensor([0.5773, 0.5773, 0.5773, 0.4932, 0.4932])
    """
    if beta < 0:
        raise SettingError(f"decoupled_length: beta={beta}; it is 0 or more")
    width = mask.shape[1]
    places = torch.arange(width, device=mask.device)
    redundant = redundant_span(correct, has_answer, step, mask)
    outcome = correct.double()[:, None]
    shrunk = outcome + beta * (1 - lengths(mask).double()[:, None] / max_tokens)
    reward = torch.where(redundant, shrunk, outcome * (1 + beta))
    ids = group[:, None] * width + places
    size = segments.total(torch.ones_like(reward), ids)
    centred = reward - segments.spread(segments.mean(reward, ids), ids)
    # The mean of equal numbers may be off by rounding, which eps would not hide.
    centred = torch.where(centred.abs() < 1e-12, 0.0, centred)
    deviation = (segments.total(centred**2, ids) / (size - 1).clamp(min=1)).sqrt()
    alone = segments.spread(size, ids) == 1
    out = centred / (segments.spread(deviation, ids) + eps)
    if singleton == "raw":
        out = torch.where(alone, reward / (1 + eps), out)
    out = torch.where(mask, out, 0.0).to(correct.dtype)
    right = mask & (correct >= 0.5)[:, None]
    share = (redundant & right).sum() / right.sum().clamp(min=1)
    return out, {"truegain/redundant": share}


def first_answer(has_answer: Tensor, step: Tensor, mask: Tensor) -> Tensor:
    """Number of each row's first step that has the answer [B]; -1 where none has."""
    width = has_answer.shape[1]
    if not width:
        return torch.full(mask.shape[:1], -1, device=mask.device)
    numbers = torch.arange(width, device=mask.device)
    there = ((torch.where(mask, step, -1)[:, :, None] == numbers).any(dim=1)) & (has_answer >= 0.5)
    return torch.where(there.any(dim=1), there.long().argmax(dim=1), -1)


def redundant_span(correct: Tensor, has_answer: Tensor, step: Tensor, mask: Tensor) -> Tensor:
    """From the first to the last token of the steps behind a right row's first answer [B,T]."""
    first = first_answer(has_answer, step, mask)[:, None]
    after = mask & (step > first) & (first >= 0) & (correct >= 0.5)[:, None]
    begun = after.long().cumsum(1) > 0
    to_come = after.long().flip(1).cumsum(1).flip(1) > 0
    return begun & to_come
