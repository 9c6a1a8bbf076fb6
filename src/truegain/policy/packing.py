"""Rows that share prompts in one line of tokens: each prompt is computed once, and completions are not padded.

All that works token by token (the matrix products, nearly all of the time) runs over the line; attention runs over the
prompts, and over a grid of completions that look at their prompt and themselves. The numbers are those of separate
rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from truegain.policy import decoder

_WORTHWHILE = 0.95


@dataclass(frozen=True)
class Packed:
    """B completions of N tokens in all, at most T each, that go on from G prompts of at most P tokens.

    The line is ``ids``, ``positions`` [G * P + N]: the prompts, right-padded, then the completions without padding.
    Completion token n is ``tokens[row[n], column[n]]`` and is predicted at ``before[n]`` of the line. Row b goes on
    from prompt ``of[b]``; ``mask`` [B or 1, 1, T, P + T] is true where its token t looks. Token n has its place in
    the grid [B * T] at ``cell[n]``, and ``token`` [B * T] is the token in each cell (any one where it is empty); both
    are None when no cell is empty.
    """

    ids: Tensor
    positions: Tensor
    prompts: tuple[int, int]
    grid: tuple[int, int]
    of: Tensor
    mask: Tensor
    cell: Tensor | None
    token: Tensor | None
    row: Tensor
    column: Tensor
    before: Tensor


def pays(unique: Sequence[int], rows: Sequence[int], lengths: Sequence[int], params: int, width: int) -> bool:
    """Whether one line is cheaper than padded rows.

    ``unique`` are the tokens of the different prompts, ``rows`` those of each row's prompt, ``lengths`` the completion
    tokens, ``params`` the weights that multiply, ``width`` layers times attention width. A token costs two operations
    per weight, and four per unit of width and position that attention computes; a causal square counts half.
    """
    start, end = max(unique), max(lengths)
    widest = max(p + n for p, n in zip(rows, lengths, strict=True))
    seen = len(unique) * start**2 / 2 + len(rows) * end * (start + end)
    packed = 2 * params * (len(unique) * start + sum(lengths)) + 4 * width * seen
    apart = 2 * params * len(rows) * widest + 4 * width * len(rows) * widest**2 / 2
    return packed < _WORTHWHILE * apart


def pack(prompts: Sequence[tuple[int, ...]], tokens: Tensor, lengths: Tensor, params: int, width: int) -> Packed | None:
    """Put rows into one line on the device of ``tokens`` [B, T], right-padded; None when that does not pay."""
    number: dict[tuple[int, ...], int] = {}
    of = [number.setdefault(prompt, len(number)) for prompt in prompts]
    sizes, counts = [len(prompt) for prompt in number], lengths.tolist()
    if not any(counts) or not pays(sizes, [sizes[i] for i in of], counts, params, width):
        return None
    device, start, end = tokens.device, max(sizes), max(counts)
    heads = torch.tensor([[*prompt, *[0] * (start - len(prompt))] for prompt in number], device=device)
    begin, which = torch.tensor(sizes, device=device), torch.tensor(of, device=device)
    count, steps = torch.tensor(counts, device=device), torch.arange(end, device=device)
    row, column = (steps < count[:, None]).nonzero(as_tuple=True)
    place = torch.arange(len(row), device=device)
    before = torch.where(column == 0, which[row] * start + begin[which[row]] - 1, heads.numel() + place - 1)
    cell = token = None
    if len(row) < len(of) * end:
        cell = row * end + column
        token = place.new_zeros(len(of) * end).index_put((cell,), place)
    same = min(sizes) == start
    allowed = torch.arange(start, device=device) < begin[which[:1] if same else which][:, None]
    mask = torch.cat((allowed[:, None].expand(-1, end, -1), (steps <= steps[:, None]).expand(len(allowed), -1, -1)), 2)
    return Packed(
        ids=torch.cat((heads.flatten(), tokens[row, column])),
        positions=torch.cat((torch.arange(start, device=device).repeat(len(sizes)), begin[which[row]] + column)),
        prompts=(len(sizes), start),
        grid=(len(of), end),
        of=which,
        mask=mask[:, None],
        cell=cell,
        token=token,
        row=row,
        column=column,
        before=before,
    )


def hidden_states(model: Any, packed: Packed) -> Tensor:
    """Last hidden states [G * P + N, d] of the line, after the final norm; differentiable."""
    shape = decoder.shape_of(model)
    grouped, first = shape.kv_heads != shape.heads, packed.prompts[0] * packed.prompts[1]
    parts = (first, len(packed.ids) - first)

    def attend(_: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        (q1, q2), (k1, k2), (v1, v2) = (_parts(x, parts, packed) for x in (q, k, v))
        read = _attention(q1, k1, v1, is_causal=True, enable_gqa=grouped)
        k2, v2 = (torch.cat((x1.index_select(0, packed.of), x2), 1) for x1, x2 in ((k1, k2), (v1, v2)))
        drawn = _attention(q2, k2, v2, attn_mask=packed.mask, enable_gqa=grouped)
        if packed.cell is not None:
            drawn = _Moved.apply(drawn, packed.cell, packed.token, True)
        return torch.cat((read, drawn))

    x, rope = decoder.embedded(model, packed.ids), decoder.rotary(model, packed.positions)
    return decoder.run(decoder.weights_of(model), shape, x, rope, attend)


def _parts(x: Tensor, parts: tuple[int, int], packed: Packed) -> tuple[Tensor, Tensor]:
    """Of the line [G * P + N, H, D]: the prompts [G, P, H, D] and the completions' grid [B, T, H, D]."""
    prompts, drawn = x.split(parts)
    if packed.cell is not None:
        drawn = _Moved.apply(drawn, packed.token, packed.cell, False)
    return prompts.unflatten(0, packed.prompts), drawn.unflatten(0, packed.grid)


def _attention(q: Tensor, k: Tensor, v: Tensor, **how: Any) -> Tensor:
    """Of q [B, T, H, D], k and v [B, S, K, D]: [B * T, H * D]."""
    mixed = F.scaled_dot_product_attention(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), **how)
    return mixed.transpose(1, 2).flatten(2).flatten(0, 1)


class _Moved(torch.autograd.Function):
    """x[to], for a gradient that is a plain lookup, too: ``back`` says where each row of x went.

    To the grid, some tokens stand in empty cells, too; nothing looks there, so that no gradient comes from there. From
    the grid (``leaves``), the empty cells go nowhere, and their gradient is zero.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, to: Tensor, back: Tensor, leaves: bool) -> Tensor:
        ctx.save_for_backward(to, back)
        ctx.leaves = leaves
        return x.index_select(0, to)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        to, back = ctx.saved_tensors
        if ctx.leaves:
            grad = grads[0].new_zeros((len(back), *grads[0].shape[1:])).index_copy_(0, to, grads[0])
        else:
            grad = grads[0].index_select(0, back)
        return grad, None, None, None
