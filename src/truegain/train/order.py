"""The order in which problems, rows and pairs are walked: a new one each epoch, a pure function of the seed."""

from __future__ import annotations

from collections.abc import Callable

import torch

SEED_STRIDE = 1_000_003


def in_order(count: int, seed: int) -> Callable[[int], int]:
    """Which of ``count`` things is the index-th to be taken: all of them in a new order each epoch, by the seed.

    >>> place = in_order(4, seed=1)
    >>> sorted(map(place, range(4))), sorted(map(place, range(4, 8)))
    ([0, 1, 2, 3], [0, 1, 2, 3])
    """
    orders: dict[int, list[int]] = {}

    def place(index: int) -> int:
        epoch, at = divmod(index, count)
        if epoch not in orders:
            orders.clear()
            generator = torch.Generator().manual_seed(seed * SEED_STRIDE + epoch)
            orders[epoch] = torch.randperm(count, generator=generator).tolist()
        return orders[epoch][at]

    return place
