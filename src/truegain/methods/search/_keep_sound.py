from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

from torch import Tensor

from truegain.core.component import component
from truegain.core.errors import WiringError
from truegain.core.types import Rollout


@component("search", cite=("arXiv:2601.21912", "github.com/lilinwz/ProRAG"))
def keep_sound(
    roles: Mapping[str, Any], draw: Any, rollouts: Sequence[Rollout], *, least: float = 0.0
) -> tuple[list[Rollout], dict[str, float]]:
    """Keep right rollouts in which a process reward model finds no step worse than ``least``.

    A role that fills ``step_reward`` scores the end of each step of the form's segment ``step``; the worst step counts,
    in the model's own units (0 is a logit's even chance). The scores stay as the fact ``step_reward``. Dropped are
    wrong rollouts, those without a verdict or a step, and those with a score that is NaN. Logs ``right`` and ``sound``,
    shares of all rollouts. Raises WiringError without the segment or the role.
    Source: ProRAG 2026, rejection fine-tuning: exact matches with reward of at least 0.

    >>> from types import SimpleNamespace as Some
    >>> import torch
    >>> from truegain.core.types import Problem
    >>> rows = [Rollout(Problem("a", "q"), (1,), (5,), (0.0,), "x", "eos", (), facts={"correct": 1.0})] * 2
    >>> loop = Some(columns=lambda rows: {"step_reward": torch.tensor([[2.0, -1.0], [0.5, float("nan")]])})
    >>> keep_sound({}, loop, rows)[1]
    {'right': 1.0, 'sound': 0.5}
    """
    right = [r for r in rollouts if r.facts.get("correct") == 1.0 and "abstained" not in r.facts and r.ids]
    if not right:
        return [], {"right": 0.0, "sound": 0.0} if rollouts else {}
    columns = draw.columns(right)
    if "step_reward" not in columns:
        raise WiringError("keep_sound reads step_reward: give the form a role that fills 'step_reward'")
    scores: Tensor = columns["step_reward"]
    kept: list[Rollout] = []
    for rollout, row in zip(right, cast("list[list[float]]", cast(Any, scores).tolist()), strict=True):
        # NaN past the last step: a row's own scores come first.
        while row and row[-1] != row[-1]:
            row.pop()
        if row and all(value >= least for value in row):
            kept.append(replace(rollout, facts={**rollout.facts, "step_reward": row}))
    return kept, {"right": len(right) / len(rollouts), "sound": len(kept) / len(rollouts)}
