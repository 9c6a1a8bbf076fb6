"""Rollouts as columns."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from numbers import Real

import torch
from torch import Tensor

from truegain.core.errors import DataError
from truegain.core.types import Rollout


def to_columns(rollouts: Sequence[Rollout]) -> dict[str, Tensor]:
    """Columns of B rollouts, completions only, right-padded to T tokens.

    ``tokens`` [B, T] int64 (0 in the padding), ``mask`` [B, T] bool, ``engine_logp`` [B, T], ``turn`` [B, T] (-1
    outside), ``group`` [B] (same problem and same context, by first appearance), ``key`` [B], ``truncated`` [B]
    bool, and [B] floats for every fact that is one number in all rows. Raises DataError for no rollouts.
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
    found = {}
    for name in rollouts[0].facts:
        values = [rollout.facts.get(name) for rollout in rollouts]
        if all(isinstance(value, Real) for value in values):
            if name in taken:
                raise DataError(f"fact {name!r} has the name of a column that every batch has: rename it in the scorer")
            found[name] = torch.tensor([float(value) for value in values], dtype=torch.float32)  # type: ignore
    return found
