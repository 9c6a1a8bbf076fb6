"""Random batches made from the dictionary of columns, so that a component of the future is covered without a line."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from truegain.core.batch import Batch
from truegain.core.columns import COLUMNS

MODELS, PARTS, VOCABULARY, HIDDEN, CANDIDATES = 3, 2, 11, 5, 4


@dataclass(frozen=True)
class Shape:
    """What every column of one batch is drawn from."""

    rng: torch.Generator
    dtype: torch.dtype
    mask: Tensor
    inside: Tensor
    group: Tensor
    turn: Tensor
    step: Tensor
    tool: Tensor

    def normal(self, *size: int) -> Tensor:
        return torch.randn(*size, generator=self.rng, dtype=torch.float64).to(self.dtype)

    def uniform(self, *size: int) -> Tensor:
        return torch.rand(*size, generator=self.rng, dtype=torch.float64).to(self.dtype)

    def integers(self, high: int, *size: int) -> Tensor:
        return torch.randint(high, size, generator=self.rng)


@functools.lru_cache(maxsize=512)
def random_batch(
    seed: int, rows: int = 9, tokens: int = 7, *, dtype: torch.dtype = torch.float64, groups: tuple[int, int] = (1, 4)
) -> Batch:
    """Every column of the dictionary. The same arguments give the same batch, which nobody may write into.

    Group sizes lie in ``groups`` (the last one takes what is left) and rows of a group lie apart. Rows have 1 to
    ``tokens`` tokens; some have a hole of tool tokens, a turn of its own. Float token columns are 0 outside the mask.
    """
    shape = _shape(seed, rows, tokens, dtype, groups)
    return Batch(**{name: _column(name, shape) for name in COLUMNS})


def _shape(seed: int, rows: int, tokens: int, dtype: torch.dtype, groups: tuple[int, int]) -> Shape:
    rng = torch.Generator().manual_seed(seed)

    def pick(low: int, high: int) -> int:
        return int(torch.randint(low, high + 1, (), generator=rng))

    ids: list[int] = []
    while len(ids) < rows:
        left = rows - len(ids)
        size = min(pick(*groups), left)
        if left - size < groups[0]:
            size = left
        ids += [max(ids, default=-1) + 1] * size
    group = torch.tensor(ids)[torch.randperm(rows, generator=rng)]
    turn = torch.full((rows, tokens), -1)
    tool = torch.zeros(rows, tokens, dtype=torch.bool)
    inside = torch.zeros(rows, tokens, dtype=torch.bool)
    for row in range(rows):
        length = pick(1, tokens)
        inside[row, :length] = True
        first, second = sorted((pick(1, tokens), pick(1, tokens)))
        back = min(second, length - 1)
        turn[row, :length] = 0
        if first < back:
            tool[row, first:back] = True
            turn[row, first:back], turn[row, back:length] = 1, 2
    step = torch.where(inside, torch.arange(tokens).expand(rows, tokens) // 2, -1)
    return Shape(rng, dtype, inside & ~tool, inside, group, turn, step, tool)


def _per_id(draw: Tensor, ids: Tensor, fill: float) -> Tensor:
    """Keep what belongs to an id that a row has; ``fill`` past its last one."""
    past = torch.arange(draw.shape[1]) > ids.max(dim=1, keepdim=True).values
    return draw.masked_fill(past, fill)


def _column(name: str, s: Shape) -> Tensor:
    rows, tokens = s.mask.shape
    steps, turns = int(s.step.max()) + 1, int(s.turn.max()) + 1
    special: dict[str, Callable[[], Tensor]] = {
        "tokens": lambda: s.integers(VOCABULARY, rows, tokens) * s.inside,
        "mask": lambda: s.mask,
        "group": lambda: s.group,
        # A number of the row's own; a generator of its own leaves the other columns' draws as they are.
        "key": lambda: torch.randperm(rows, generator=torch.Generator().manual_seed(int(s.group.sum()))),
        "role": lambda: torch.zeros(rows, dtype=torch.long),
        "turn": lambda: s.turn,
        "step": lambda: s.step,
        "part": lambda: torch.where(s.inside, (s.step > 0).long(), -1),
        "cut": lambda: s.integers(3, rows) - 1,
        "truncated": lambda: s.inside.all(dim=1),
        "keep": lambda: torch.ones(rows, dtype=s.dtype),
        "correct": lambda: s.integers(2, rows).to(s.dtype),
        "confidence": lambda: s.uniform(rows),
        "answered": lambda: s.integers(2, rows).to(s.dtype),
        "tool_calls": lambda: s.tool.any(dim=1).to(s.dtype),
        "tool_errors": lambda: s.tool.any(dim=1).to(s.dtype) * s.integers(2, rows),
        "entropy": lambda: s.uniform(rows, tokens) * s.mask,
        "test_pass": lambda: s.integers(2, rows, PARTS).to(s.dtype),
        "turn_reward": lambda: _per_id(s.normal(rows, turns), s.turn, float("nan")),
        "step_reward": lambda: _per_id(s.normal(rows, steps), s.step, float("nan")),
        "probe_correct": lambda: _per_id(s.uniform(rows, steps), s.step, float("nan")),
        "probe_confidence": lambda: _per_id(s.uniform(rows, steps), s.step, float("nan")),
        "has_answer": lambda: _per_id(s.integers(2, rows, steps).to(s.dtype), s.step, float("nan")),
        "reflections": lambda: s.integers(90, rows).to(s.dtype),
        "conciseness": lambda: s.uniform(rows),
        "top_ids": lambda: torch.rand(rows, tokens, VOCABULARY, generator=s.rng).argsort(-1)[..., :CANDIDATES],
        "top_logp": lambda: s.normal(rows, tokens, CANDIDATES).log_softmax(-1) - 0.1,
        "answer_logp": lambda: _per_id(-3 * s.uniform(rows, steps), s.step, float("nan")),
    }
    if name in special:
        return special[name]()
    if name.endswith("logp"):
        # Close to each other as log-probs of neighbouring policies are, and far enough apart to reach every clip.
        base = -3 * torch.rand(rows, tokens, generator=torch.Generator().manual_seed(rows), dtype=torch.float64)
        return ((base.to(s.dtype) + 0.4 * s.normal(rows, tokens)).clamp(max=-1e-3)) * s.mask
    return _by_schema(name, s, _sizes(rows, tokens, steps, turns))


def _sizes(rows: int, tokens: int, steps: int, turns: int) -> dict[str, int]:
    return {"B": rows, "T": tokens, "S": steps, "U": turns, "M": MODELS, "K": PARTS, "H": HIDDEN, "C": CANDIDATES}


def _by_schema(name: str, s: Shape, sizes: dict[str, int]) -> Tensor:
    """What the shape and the kind of a column ask for, and nothing else."""
    column = COLUMNS[name]
    size = [sizes[letter] for letter in column.shape.split(",")]
    if column.kind == "float":
        drawn = s.normal(*size)
        return drawn * s.mask if column.shape == "B,T" else drawn
    if column.kind == "bool":
        return s.integers(2, *size).bool()
    drawn = s.integers(3, *size)
    return torch.where(s.inside, drawn, -1) if column.shape == "B,T" else drawn


def facts(tokens: int) -> dict[str, Any]:
    """The loop facts."""
    return {"progress": 0.25, "step_index": 3, "max_tokens": tokens, "step_size": 1e-3, "head_moments": None}


def changed(batch: Batch, **columns: Tensor) -> Batch:
    """The batch with columns replaced; what a stage may not do, a test must."""
    return Batch(**{**batch, **columns})


def padded(batch: Batch, extra: int) -> Batch:
    """The batch with ``extra`` token columns of padding that hold rubbish, and NaN wherever the mask is false."""
    columns = dict(poisoned(batch))
    for name, value in columns.items():
        if COLUMNS[name].shape.startswith("B,T"):
            ids = name in ("tokens", "top_ids")
            fill = {"float": float("nan"), "int": 7 if ids else -1, "bool": False}[COLUMNS[name].kind]
            more = torch.full((batch.rows, extra, *value.shape[2:]), fill, dtype=value.dtype)
            columns[name] = torch.cat([value, more], dim=1)
    return Batch(**columns)


def poisoned(batch: Batch) -> Batch:
    """The batch with NaN in every float token column wherever the mask is false."""
    outside = ~batch["mask"]
    token_floats = [n for n in batch if COLUMNS[n].shape.startswith("B,T") and COLUMNS[n].kind == "float"]
    where = {n: outside if batch[n].dim() == 2 else outside[..., None] for n in token_floats}
    return changed(batch, **{n: batch[n].masked_fill(where[n], float("nan")) for n in token_floats})


def emptied(batch: Batch, row: int) -> Batch:
    """The batch with one row in which the policy chose no token."""
    columns = dict(batch)
    for name, value in batch.items():
        if COLUMNS[name].shape == "B,T":
            columns[name] = value.clone()
            columns[name][row] = -1 if COLUMNS[name].kind == "int" and name != "tokens" else 0
    return Batch(**columns)
