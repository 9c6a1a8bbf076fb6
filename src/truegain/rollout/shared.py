"""Attention of many rows to the few trunks they share: one matrix product for all rows of a trunk."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

KeysValues = tuple[Tensor, Tensor]
# For batched products of fewer multiplications than this, torch leaves the CPU library for a slow loop of its own
TINY = 400


@dataclass
class Shared:
    """Keys and values [N, K, P, D] of N trunks, per block. Row b of B looks at trunk ``of[b]``; ``of`` ascends.

    ``bias`` [B, P] is -inf behind a row's cut (None: all rows look at all). Rows stand in a grid of N by ``width``
    cells: ``row`` [N * width] is the row in each cell (any row where the cell is empty) and ``cell`` [B] the cell of
    each row; both are None when every cell is taken.
    """

    blocks: list[KeysValues]
    of: Tensor
    bias: Tensor | None
    width: int
    row: Tensor | None
    cell: Tensor | None

    def scores(self, index: int, q: Tensor, scale: float) -> Tensor:
        """Scaled scores [B * K, r, P] of queries [B * K, r, D] against the keys of each row's trunk, in a block."""
        keys = self.blocks[index][0]
        asked = self._by_trunk(q, keys.shape[1])
        none = asked.new_zeros((1, 1, 1))
        scores = torch.baddbmm(none, asked, keys.flatten(0, 1).transpose(1, 2), beta=0, alpha=scale)
        scores = self._by_row(scores, keys.shape[1])
        if self.bias is not None:
            by_head = scores.view(len(self.of), -1, scores.shape[-1])
            by_head += self.bias[:, None]
        return scores

    def mixed(self, index: int, p: Tensor) -> Tensor:
        """Values [B * K, r, D] of each row's trunk, mixed with the probabilities p [B * K, r, P], in a block."""
        values = self.blocks[index][1]
        return self._by_row(mixture(self._by_trunk(p, values.shape[1]), values.flatten(0, 1)), values.shape[1])

    def _by_trunk(self, x: Tensor, heads: int) -> Tensor:
        """[B * K, r, n] to [N * K, width * r, n]."""
        each, last = x.shape[1:]
        cells = x.view(-1, heads, each, last)
        cells = cells if self.row is None else cells[self.row]
        return cells.view(-1, self.width, heads, each, last).transpose(1, 2).reshape(-1, self.width * each, last)

    def _by_row(self, x: Tensor, heads: int) -> Tensor:
        """[N * K, width * r, n] to [B * K, r, n]."""
        each, last = x.shape[1] // self.width, x.shape[2]
        cells = x.view(-1, heads, self.width, each, last).transpose(1, 2)
        if self.cell is None:
            return cells.reshape(-1, each, last)
        return cells.reshape(-1, heads, each, last)[self.cell].view(-1, each, last)

    def select(self, rows: Tensor) -> Shared:
        """For some rows, in ascending order: trunks that none of them looks at are dropped."""
        alive, of = torch.unique(self.of[rows], return_inverse=True)
        blocks = self.blocks
        if len(alive) < blocks[0][0].shape[0]:
            blocks = [(keys[alive], values[alive]) for keys, values in blocks]
        return share(blocks, of, None if self.bias is None else self.bias[rows])


def share(blocks: list[KeysValues], of: Tensor, bias: Tensor | None) -> Shared:
    """Set out rows that look at trunks ``of`` [B], ascending, in a grid."""
    rows = torch.arange(len(of), device=of.device)
    trunks = blocks[0][0].shape[0]
    count = torch.bincount(of, minlength=trunks)
    width = int(count.max())
    if len(of) == trunks * width:
        return Shared(blocks, of, bias, width, None, None)
    cell = of * width + rows - (count.cumsum(0) - count)[of]
    row = torch.zeros(trunks * width, dtype=torch.long, device=of.device).index_put((cell,), rows)
    return Shared(blocks, of, bias, width, row, cell)


def mixture(p: Tensor, values: Tensor) -> Tensor:
    """Probabilities [X, r, t] times values [X, t, D]: [X, r, D]."""
    if p.is_cpu and p.shape[1] * p.shape[2] * values.shape[2] < TINY:
        return (p[..., None] * values[:, None]).sum(2)
    return torch.bmm(p, values)
