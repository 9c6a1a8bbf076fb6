"""Rows that share a prompt in one sequence: the prompt is computed once for the samples of a group.

A packed row is a prompt and the completions of some of its samples, one after the other, under a tree mask: a
completion sees the prompt and itself, at positions that go on from the prompt. The numbers are those of separate rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor

# Operations of attention per token, position and unit of width: causal attention looks at half the positions.
# Only the choice of how many samples to pack depends on these.
_MASKED, _CAUSAL = 4.0, 2.0
_WORTHWHILE = 0.9


@dataclass(frozen=True)
class Packed:
    """R packed rows of L tokens, and where each of the N completion tokens is.

    ``ids``, ``positions`` [R, L]; ``mask`` [R, 1, L, L], true where a row's token looks at a column's. Completion
    token n is ``tokens[row[n], column[n]]`` and is predicted at ``[at_row[n], at[n]]``.
    """

    ids: Tensor
    positions: Tensor
    mask: Tensor
    row: Tensor
    column: Tensor
    at_row: Tensor
    at: Tensor

    def to(self, device: torch.device) -> Packed:
        """The same on a device."""
        return Packed(*(getattr(self, field.name).to(device) for field in fields(self)))


def samples_to_pack(prompt: int, completion: float, group: int, params: int, width: int) -> int:
    """How many samples of one prompt to put into a packed row; 1 when packing does not pay.

    ``prompt`` and ``completion`` are tokens, ``group`` the samples that share the prompt, ``params`` the weights that
    multiply, ``width`` is layers times attention width. A row of k samples costs, per sample,
    ``(prompt / k + completion) (2 params + f width L)``, with L = prompt + k completion tokens to look at and f
    the cost of attention.
    """

    def cost(k: int) -> float:
        seen = prompt + k * completion
        factor = _CAUSAL if k == 1 else _MASKED
        return (prompt / k + completion) * (2 * params + factor * width * seen)

    best = min(range(1, group + 1), key=cost)
    return best if cost(best) < _WORTHWHILE * cost(1) else 1


def pack(
    prompts: Sequence[tuple[int, ...]], tokens: Tensor, lengths: Sequence[int], params: int, width: int
) -> Packed | None:
    """Pack rows that share a prompt, or None when too little is shared. ``tokens`` [B, T] are right-padded."""
    same: dict[tuple[int, ...], list[int]] = {}
    for i, prompt in enumerate(prompts):
        same.setdefault(prompt, []).append(i)
    mean = sum(lengths) / max(len(lengths), 1)
    start = sum(map(len, same)) / max(len(same), 1)
    size = samples_to_pack(round(start), mean, len(prompts) // max(len(same), 1), params, width)
    if size == 1:
        return None
    trees = [(prompt, rows[i : i + size]) for prompt, rows in same.items() for i in range(0, len(rows), size)]
    length = max(len(prompt) + sum(lengths[i] for i in rows) for prompt, rows in trees)
    given = tokens.tolist()
    ids, positions, branch = [], [], []
    where: list[tuple[int, int, int, int]] = []
    for tree, (prompt, rows) in enumerate(trees):
        line, places, owner = list(prompt), list(range(len(prompt))), [0] * len(prompt)
        for number, i in enumerate(rows, start=1):
            begin, count = len(line), lengths[i]
            line += given[i][:count]
            places += range(len(prompt), len(prompt) + count)
            owner += [number] * count
            where += [(i, t, tree, len(prompt) - 1 if t == 0 else begin + t - 1) for t in range(count)]
        rest = length - len(line)
        ids.append(line + [0] * rest)
        positions.append(places + [0] * rest)
        branch.append(owner + [-1] * rest)
    of = torch.tensor(branch)
    mask = (of[:, :, None] == of[:, None, :]) | (of[:, None, :] == 0)
    mask &= torch.ones(length, length, dtype=torch.bool).tril()
    row, column, at_row, at = torch.tensor(where, dtype=torch.long).reshape(-1, 4).unbind(1)
    return Packed(torch.tensor(ids), torch.tensor(positions), mask[:, None], row, column, at_row, at)
