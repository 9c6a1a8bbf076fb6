from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from truegain.core import segments
from truegain.core.component import component
from truegain.core.types import Abstain, Rollout


@component("probe", cite="truegain", fills="step_reward")
def judged_steps(
    draw: Any,
    rollouts: Sequence[Rollout],
    step: Int[Tensor, "B T"],
    *,
    judge: str = "task",
    right: float = 1.0,
    wrong: float = -1.0,
) -> dict[str, Tensor]:
    """Rewards of steps by a judge: the task's own exact one, or a model behind an HTTP server.

    Fills ``step_reward[B,S]``: ``right`` or ``wrong`` for each step, NaN past a row's last one; a judge's numbers
    between 0 and 1 are interpolated. Steps are those that the segment `by_step` counts; what it numbers otherwise gets
    NaN. ``judge`` is ``task`` (a task with ``step_verdicts``), or ``openai:MODEL@URL`` with the key in the environment.
    A row on which the judge abstains leaves the batch with its reason; it never gets a 0.

    Raises WiringError for a task that judges no steps, SettingError for a judge that is none.

    >>> from types import SimpleNamespace
    >>> from truegain.core.types import Problem
    >>> said = SimpleNamespace(steps=lambda rollouts: [[1.0, 0.0]])
    >>> row = Rollout(Problem("a", "a"), (), (1, 2), (0.0, 0.0), "x", "eos", ())
    >>> judged_steps(SimpleNamespace(judge=lambda spec: said), [row], torch.tensor([[0, 1]]))["step_reward"]
    tensor([[ 1., -1.]])
    """
    out = torch.full((len(rollouts), segments.count(step)), float("nan"), device=step.device)
    for i, found in enumerate(draw.judge(judge).steps(rollouts)):
        if isinstance(found, Abstain):
            draw.refuse(i, found.reason)
            continue
        row = [wrong + (right - wrong) * verdict for verdict in found]
        size = min(int(step[i].max()) + 1 if step.shape[1] else 0, len(row))
        out[i, :size] = torch.tensor(row[:size], device=step.device)
    return {"step_reward": out}
