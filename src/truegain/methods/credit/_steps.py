"""Steps (or turns) of a batch as a table [B,S], and the way from a table of rewards to returns and to tokens.

One mechanism for every system that pays by the step: make the table with `steps_of`, put rewards, potentials or
advantages into [B,S], normalise them with `standardised`, sum them with `to_go`, hand them back with `Steps.to_tokens`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from truegain.core import segments

Pool = Literal["none", "group", "batch", "place"]


@dataclass(frozen=True)
class Steps:
    """The steps of B rows: ``ids`` [B,T] number them over the whole batch (row * S + step), -1 outside the mask.

    ``present`` [B,S] says which ones hold a policy token, ``tokens`` [B,S] how many.
    """

    ids: Tensor
    present: Tensor
    tokens: Tensor

    def mean(self, values: Tensor) -> Tensor:
        """Mean of [B,T] over each step's policy tokens: [B,S], 0 for a step without one."""
        return segments.mean(values, self.ids, self.present.numel()).reshape(self.present.shape)

    def to_tokens(self, values: Tensor) -> Tensor:
        """Each step's number [B,S] at all its policy tokens: [B,T], 0 elsewhere."""
        return segments.spread(values.reshape(-1), self.ids)


def steps_of(step: Tensor, mask: Tensor, dtype: torch.dtype, count: int = 0) -> Steps:
    """The table of a batch's steps from their ids [B,T]; at least ``count`` columns wide."""
    inside = mask & (step >= 0)
    width = max(count, segments.count(step))
    row = torch.arange(step.shape[0], device=step.device)[:, None]
    ids = torch.where(inside, row * width + step, -1)
    tokens = segments.total(inside.to(dtype), ids, step.shape[0] * width).reshape(step.shape[0], width)
    return Steps(ids, tokens > 0, tokens)


def fitted(values: Tensor, steps: Steps) -> Tensor:
    """A table of rewards [B,S'] as wide as the steps, 0 where there is no step; a NaN at a step that is there stays."""
    width = steps.present.shape[1]
    if values.shape[1] < width:
        values = torch.nn.functional.pad(values, (0, width - values.shape[1]), value=float("nan"))
    return torch.where(steps.present, values[:, :width], torch.zeros((), dtype=values.dtype, device=values.device))


def to_go(values: Tensor, steps: Steps, gamma: float) -> Tensor:
    """``R_s = r_s + gamma * R_{s+1}`` over each row's present steps, [B,S]; a missing step costs no discount."""
    out = torch.zeros_like(values)
    carried = torch.zeros(values.shape[0], dtype=values.dtype, device=values.device)
    for s in reversed(range(values.shape[1])):
        here = steps.present[:, s]
        carried = torch.where(here, values[:, s] + gamma * carried, carried)
        out[:, s] = torch.where(here, carried, torch.zeros_like(carried))
    return out


def standardised(
    values: Tensor, steps: Steps, group: Tensor, pool: Pool, *, scale: bool, ddof: int = 1, eps: float = 1e-6
) -> Tensor:
    """``(x - mean) / (std + eps)`` over the present steps of a pool, [B,S]; without ``scale`` the mean alone goes.

    Pools: ``group`` all steps of a group's rows, ``batch`` all there are, ``place`` those of a group at one place s,
    ``none`` leaves x. Equal values of a pool, one alone included, give exactly 0.
    """
    if pool == "none":
        return values
    width = values.shape[1]
    wide = group[:, None].expand_as(values)
    if pool == "place":
        wide = wide * width + torch.arange(width, device=values.device)
    ids = torch.where(steps.present, torch.zeros_like(wide) if pool == "batch" else wide, -1)
    size = segments.count(ids)
    centred = values - segments.spread(segments.mean(values, ids, size), ids)
    # The mean of equal numbers may be off by rounding, and a deviation near 0 would magnify that.
    low, high = _range(values, ids, size)
    same = segments.spread(low, ids) == segments.spread(high, ids)
    centred = torch.where(same | ~steps.present, torch.zeros_like(centred), centred)
    if not scale:
        return centred
    count = segments.total(torch.ones_like(values), ids, size)
    deviation = (segments.total(centred**2, ids, size) / (count - ddof).clamp(min=1)).sqrt()
    return centred / (segments.spread(deviation, ids) + eps)


def _range(values: Tensor, ids: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Smallest and largest value of each segment."""
    inside = ids >= 0
    chosen, at = values[inside], ids[inside]
    empty = torch.zeros(size, dtype=values.dtype, device=values.device)
    low = empty.scatter_reduce(0, at, chosen, reduce="amin", include_self=False)
    return low, empty.scatter_reduce(0, at, chosen, reduce="amax", include_self=False)
