from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from truegain.core import segments
from truegain.core.component import component
from truegain.core.errors import WiringError
from truegain.core.types import Rollout


@component("probe", cite="truegain", fills="step_reward")
def judged_steps(
    draw: Any, rollouts: Sequence[Rollout], step: Int[Tensor, "B T"], *, right: float = 1.0, wrong: float = -1.0
) -> dict[str, Tensor]:
    """Rewards of steps by the task's own exact judge: what a process reward model without error would say.

    Fills ``step_reward[B,S]``: ``right`` or ``wrong`` for each step, NaN past a row's last one. The task's
    ``step_verdicts(problem, text)`` gives a number from 0 (wrong) to 1 (right) for each step in the text, counted as
    the segment `by_step` counts them; fractions are interpolated. Steps that it numbers otherwise get NaN.

    Raises WiringError for a task that judges no steps, or a problem whose steps it cannot judge.

    >>> from types import SimpleNamespace
    >>> from truegain.core.types import Problem
    >>> task = SimpleNamespace(name="chain", step_verdicts=lambda problem, text: [1.0, 0.0])
    >>> row = Rollout(Problem("a", "a"), (), (1, 2), (0.0, 0.0), "x", "eos", ())
    >>> judged_steps(SimpleNamespace(setup=SimpleNamespace(task=task)), [row], torch.tensor([[0, 1]]))["step_reward"]
    tensor([[ 1., -1.]])
    """
    task = draw.setup.task
    judge = getattr(task, "step_verdicts", None)
    rows: list[list[float]] = []
    for rollout in rollouts:
        found = None if judge is None else judge(rollout.problem, rollout.text)
        if found is None:
            raise WiringError(
                f"reward.judged_steps fills column 'step_reward', and task {task.name!r} judges no steps: take chain, "
                "sort or add with style=trace, or give the recipe a process reward model"
            )
        rows.append([wrong + (right - wrong) * verdict for verdict in found])
    out = torch.full((len(rows), segments.count(step)), float("nan"), device=step.device)
    for i, row in enumerate(rows):
        size = min(int(step[i].max()) + 1 if step.shape[1] else 0, len(row))
        out[i, :size] = torch.tensor(row[:size], device=step.device)
    return {"step_reward": out}
