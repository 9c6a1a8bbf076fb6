from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, cast

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from truegain.core.component import component
from truegain.core.errors import SettingError
from truegain.methods.credit._shared import discounted_to_go


@component("credit", cite=("arXiv:2508.10293", "github.com/1benwu1/VSRM-Efficient-LRMs"))
def accuracy_gains(
    probe_correct: Float[Tensor, "B S"],
    step: Int[Tensor, "B T"],
    mask: Bool[Tensor, "B T"],
    *,
    discount: float = 0.7,
    lookahead: int = 4,
    tolerance: float = 1e-5,
    gamma: float = 1.0,
) -> tuple[Float[Tensor, "B T"], dict[str, Tensor]]:
    """Pay each step the change it made in the accuracy of an answer forced there; to stand beside an outcome credit.

    With a_0 .. a_J the ``probe_correct`` of a row's steps 0 .. J, step j + 1 earns

        r_j = a_{j+1} - a_j                              where that is at least ``tolerance`` in size
        r_j = discount^(k-j) * (a_{k+1} - a_k)           else, k the next change, at most ``lookahead`` steps further
        r_j = 0                                          else, if ``lookahead`` flat steps follow
        r_j = discount^(J-j-1) * (a_J - a_j)             else: nothing changes to the end, so about 0

    so that steps that lead somewhere later share in it, steps that lead nowhere earn nothing, and steps that undo
    progress are fined. r_j stands on the first policy token of step j + 1, and credit is the sum to go over the row's
    policy tokens, discounted by ``gamma`` per token: 1 for returns, gamma * lambda beside `gae`, which is linear in the
    rewards. The row's last policy token carries its outcome alone, as the published code overwrites it.

    Shares are paid on top, not taken from the step that made the change: under returns a flat step before a gain d is
    worth discount * d more than none, so that to idle there pays. With a ``discount`` of 0 the sum to go is the last
    accuracy less the one so far, which no idling changes.

    ``discount`` and ``gamma`` in [0, 1]; ``lookahead`` 0 or more: 0, or a ``discount`` of 0, gives plain differences. A
    step whose probe says NaN has the accuracy of the one before it (the first known one, at the start). A row with
    fewer than two steps, or without a known accuracy, gets nothing. Logs ``truegain/flat_steps``, the share of steps
    that changed nothing. Raises SettingError for knobs out of bounds. Source: Yue et al. 2025 (VSRM), section 3.

    >>> import torch
    >>> step = torch.arange(6)[None]
    >>> accuracy_gains(torch.tensor([[0.2, 0.2, 0.2, 0.8, 0.6, 0.6]]), step, step >= 0, gamma=0.0)[0].round(decimals=3)
    tensor([[ 0.0000,  0.2940,  0.4200,  0.6000, -0.2000,  0.0000]])
    """
    if not (0 <= discount <= 1 and 0 <= gamma <= 1) or lookahead < 0 or tolerance < 0:
        raise SettingError(
            f"accuracy_gains: discount={discount} and gamma={gamma} must be 0 to 1, lookahead={lookahead} and "
            f"tolerance={tolerance} 0 or more"
        )
    earned = torch.zeros(mask.shape, dtype=probe_correct.dtype, device=mask.device)
    flat, steps = 0, 0
    places = torch.arange(mask.shape[1], device=mask.device)
    ends = torch.where(mask, places, -1).amax(1) if mask.shape[1] else torch.full(mask.shape[:1], -1)
    listed = (cast("list[Any]", cast(Any, t).tolist()) for t in (torch.where(mask, step, -1), probe_correct, ends))
    for row, (numbers, accuracy, last) in enumerate(zip(*listed, strict=True)):
        first = dict[int, int]()
        for at, number in enumerate(numbers):
            if number >= 0:
                first.setdefault(number, at)
        order = sorted(first)
        values = _known([accuracy[n] if n < len(accuracy) else float("nan") for n in order])
        rewards = step_rewards(values, discount, lookahead, tolerance)
        for number, value in zip(order[1:], rewards, strict=False):
            if first[number] != last:
                earned[row, first[number]] = value
        flat += sum(abs(b - a) < tolerance for a, b in pairwise(values))
        steps += len(rewards)
    out = discounted_to_go(earned, mask, gamma).masked_fill(~mask, 0.0)
    return out, {"truegain/flat_steps": torch.tensor(flat / max(steps, 1))}


def step_rewards(accuracy: Sequence[float], discount: float, lookahead: int, tolerance: float) -> list[float]:
    """r_0 .. r_{J-1} from a_0 .. a_J; nothing from fewer than two."""
    change = [b - a for a, b in pairwise(accuracy)]
    out: list[float] = []
    for j, gained in enumerate(change):
        if abs(gained) >= tolerance:
            out.append(gained)
            continue
        k = j + 1
        while k - j - 1 < lookahead and k < len(change) and abs(change[k]) < tolerance:
            k += 1
        if k - j - 1 == lookahead:
            out.append(0.0)
        elif k < len(change):
            out.append(change[k] * discount ** (k - j))
        else:
            out.append((accuracy[-1] - accuracy[j]) * discount ** (len(change) - j - 1))
    return out


def _known(values: Sequence[float]) -> list[float]:
    """NaN replaced by the value before it, at the start by the first known one; nothing where none is known."""
    found = next((value for value in values if value == value), None)
    if found is None:
        return []
    out: list[float] = []
    for value in values:
        found = value if value == value else found
        out.append(found)
    return out
