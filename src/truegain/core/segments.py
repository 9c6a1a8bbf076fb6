"""Sums, means and broadcasts over ids: the only place with scatter and gather.

An id tensor has any shape; entries below 0 belong to no segment: they take no part and receive 0.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor


def count(ids: Tensor) -> int:
    """Return the number of segments, one more than the largest id; 0 when all are outside.

    >>> count(torch.tensor([0, 2, -1]))
    3
    """
    return int(ids.max()) + 1 if ids.numel() and int(ids.max()) >= 0 else 0


def total(values: Tensor, ids: Tensor, size: int | None = None) -> Tensor:
    """Sum of ``values`` in each segment, shape [size]. ``values`` and ``ids`` have one shape.

    >>> total(torch.tensor([1.0, 2.0, 4.0]), torch.tensor([0, 0, 1]))
    tensor([3., 4.])
    """
    size = count(ids) if size is None else size
    inside = ids >= 0
    flat = torch.where(inside, values, torch.zeros((), dtype=values.dtype, device=values.device)).reshape(-1)
    out = torch.zeros(size + 1, dtype=values.dtype, device=values.device)
    return out.index_add_(0, torch.where(inside, ids, size).reshape(-1), flat)[:size]


def mean(values: Tensor, ids: Tensor, size: int | None = None) -> Tensor:
    """Mean of ``values`` in each segment, shape [size]; 0 for an empty one.

    >>> mean(torch.tensor([1.0, 2.0, 4.0]), torch.tensor([0, 0, 1]))
    tensor([1.5000, 4.0000])
    """
    return total(values, ids, size) / total(torch.ones_like(values), ids, size).clamp(min=1)


def spread(per_segment: Tensor, ids: Tensor) -> Tensor:
    """Give every entry its segment's value; 0 outside. Shape of ``ids``.

    >>> spread(torch.tensor([5.0, 7.0]), torch.tensor([1, 0, -1]))
    tensor([7., 5., 0.])
    """
    if per_segment.numel() == 0:
        return torch.zeros(ids.shape, dtype=per_segment.dtype, device=per_segment.device)
    got = per_segment[ids.clamp(min=0)]
    return torch.where(ids >= 0, got, torch.zeros((), dtype=got.dtype, device=got.device))


def dense(ids: Tensor) -> Tensor:
    """Renumber ids to 0..n-1 in order of value, keeping -1: after rows were dropped, groups have no gaps.

    >>> dense(torch.tensor([7, 7, 3, -1]))
    tensor([ 1,  1,  0, -1])
    """
    values = cast(Tensor, torch.unique(ids[ids >= 0]))  # pyright: ignore[reportUnknownMemberType]
    return torch.where(ids >= 0, torch.searchsorted(values, ids), -1)


def ends(ids: Tensor) -> Tensor:
    """True at the last token of each segment of ``ids`` [B,T]; -1 is outside.

    >>> ends(torch.tensor([[0, 0, 1, -1]]))
    tensor([[False,  True,  True, False]])
    """
    rows, width = ids.shape
    places = torch.arange(width, device=ids.device).expand(rows, width)
    inside = ids >= 0
    last = torch.full((rows, max(count(ids), 1)), -1, device=ids.device)
    last.scatter_reduce_(1, torch.where(inside, ids, 0), torch.where(inside, places, -1), reduce="amax")
    return inside & (last.gather(1, torch.where(inside, ids, 0)) == places)
