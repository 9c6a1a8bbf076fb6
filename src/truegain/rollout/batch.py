"""Rollouts as columns."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from numbers import Real
from typing import Any, cast

import torch
from torch import Tensor

from truegain.core.columns import COLUMNS
from truegain.core.errors import DataError
from truegain.core.types import Rollout

# Columns of a row's own list: steps, turns, tests, models
_LISTS = ("B,S", "B,U", "B,K", "B,M")


def to_columns(rollouts: Sequence[Rollout]) -> dict[str, Tensor]:
    """Columns of B rollouts, completions only, right-padded to T tokens.

    ``tokens`` [B, T] int64 (0 in the padding), ``mask`` [B, T] bool, ``engine_logp`` [B, T], ``turn`` [B, T] (-1
    outside), ``group`` [B] (same problem and same context, by first appearance), ``key`` [B], ``truncated`` [B]
    bool, and floats for every fact that all rows have: [B] where it is one number; [B, N] where it is a list or tuple
    of numbers and a column of that name has a letter of its own (``test_pass``, ``step_reward``, ``turn_reward``, ...),
    N the longest, NaN past a row's last. None in such a list is NaN. Other facts (texts, records) stay with the
    rollouts.

    Raises DataError for no rollouts, for a fact with the name of a column that every batch has, and for a list with
    something else than numbers in it.
    """
    if not rollouts:
        raise DataError("no rollouts to make a batch of: every one was dropped, or none was drawn")
    width = max(len(rollout.ids) for rollout in rollouts)

    def table(values: Callable[[Rollout], Sequence[object]], fill: object, dtype: torch.dtype) -> Tensor:
        rows = [[*values(rollout), *[fill] * (width - len(rollout.ids))] for rollout in rollouts]
        return torch.tensor(rows, dtype=dtype).reshape(len(rollouts), width)

    groups: dict[object, int] = {}
    group = [groups.setdefault((rollout.problem.id, rollout.context), len(groups)) for rollout in rollouts]
    columns = {
        "tokens": table(lambda rollout: rollout.ids, 0, torch.long),
        "mask": table(lambda rollout: rollout.mask, False, torch.bool),
        "engine_logp": table(lambda rollout: rollout.engine_logp, 0.0, torch.float32),
        "turn": table(_turns, -1, torch.long),
        "group": torch.tensor(group),
        "key": torch.tensor([rollout.key for rollout in rollouts]),
        "truncated": torch.tensor([rollout.stop == "length" for rollout in rollouts]),
    }
    return columns | _facts(rollouts, set(columns))


def _turns(rollout: Rollout) -> list[int]:
    ids = [-1] * len(rollout.ids)
    for number, turn in enumerate(rollout.turns):
        ids[turn.start : turn.end] = [number] * (turn.end - turn.start)
    return ids


def _facts(rollouts: Sequence[Rollout], taken: set[str]) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    for name in rollouts[0].facts:
        values = [rollout.facts.get(name) for rollout in rollouts]
        if name in COLUMNS and COLUMNS[name].shape in _LISTS and all(isinstance(v, list | tuple) for v in values):
            found[name] = _lists(name, cast(Sequence[Sequence[Any]], values))
        elif all(isinstance(value, Real) for value in values):
            if name in taken:
                raise DataError(f"fact {name!r} has the name of a column that every batch has: rename it in the scorer")
            found[name] = torch.tensor([float(cast(float, value)) for value in values], dtype=torch.float32)
    return found


def _lists(name: str, values: Sequence[Sequence[Any]]) -> Tensor:
    """Rows of numbers [B, N], NaN past a row's last."""
    width = max(map(len, values))
    out = torch.full((len(values), width), float("nan"))
    for i, row in enumerate(values):
        if not all(value is None or isinstance(value, Real) for value in row):
            raise DataError(f"fact {name!r} must hold numbers only, not {list(row)!r:.80}: mend the scorer")
        out[i, : len(row)] = torch.tensor([float("nan") if v is None else float(v) for v in row])
    return out
