"""How well a process reward model ranks right above wrong steps, on problems that it was not fitted on."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from truegain.core.batch import Batch
from truegain.core.component import Member
from truegain.core.errors import DataError
from truegain.core.forms import Loop, Role
from truegain.core.types import Sampling, Task
from truegain.methods.evaluation import Estimate, rank_accuracy
from truegain.policy.policy import Policy
from truegain.rollout.batch import to_columns
from truegain.rollout.collect import collect, score_rollouts
from truegain.rollout.engines import engine_for
from truegain.rollout.segment import own_spans, segmented
from truegain.train.learner import value_pass
from truegain.train.models import frozen_models
from truegain.train.shaping import at_step_ends
from truegain.train.truth import fixed_problems


@dataclass(frozen=True)
class Ranked:
    """``steps`` by the task's exact judge where it has one, and ``outcomes`` by the worst step of each completion."""

    steps: Estimate | None
    outcomes: Estimate
    judged: int
    completions: int

    def to_json(self) -> dict[str, Any]:
        """Its numbers by name."""
        named = {"steps": self.steps, "outcomes": self.outcomes}
        found: dict[str, Any] = {name: None if e is None else [e.value, e.low, e.high] for name, e in named.items()}
        return {**found, "judged": self.judged, "completions": self.completions}


def ranked(
    model: Path, writer: str, task: Task, segment: Member, *, problems: int = 100, samples: int = 4, seed: int = 0
) -> Ranked:
    """Let ``writer`` complete dev problems at temperature 1, and see how the model in ``model`` ranks steps and ends.

    Raises DataError when nothing was left to judge.
    """
    policy = Policy.load(writer)
    models = frozen_models({"steps": Role(str(model), "step_reward", head=True)}, policy)
    asked = fixed_problems(task, "dev", problems)
    how = Sampling(getattr(task, "max_tokens", None) or 256)
    drawn = collect(
        policy, engine_for(policy), task, asked, samples=samples, sampling=how, seed=seed, stage="ranked", step=0
    )
    rows = [r for r in score_rollouts(task, drawn) if "correct" in r.facts and r.ids]
    if not rows:
        raise DataError(f"no completion of task {task.name!r} could be judged, so nothing can be said of the model")
    batch = Batch(**to_columns(rows))
    ids = segmented(segment, rows, own_spans(rows, policy.decode), batch["mask"])
    scores = value_pass(models["steps"], [r.prompt_ids for r in rows], batch, Loop(), after=True)
    table = at_step_ends(scores, ids).double().numpy()
    numbers: dict[str, int] = {}
    problem = np.array([numbers.setdefault(r.problem.id, len(numbers)) for r in rows])
    judge = getattr(task, "step_verdicts", None)
    marks = [(judge(r.problem, r.text) if judge is not None else None) or [] for r in rows]
    verdicts = np.full(table.shape, math.nan)
    for i, row in enumerate(marks):
        verdicts[i, : len(row)] = row[: table.shape[1]]
    spread = np.repeat(problem, table.shape[1])
    steps = rank_accuracy(table.ravel(), verdicts.ravel(), spread) if any(marks) else None
    worst = np.nanmin(np.where(np.isnan(table).all(1, keepdims=True), 0.0, table), axis=1)
    outcomes = rank_accuracy(worst, np.array([float(r.facts["correct"]) for r in rows]), problem)
    return Ranked(steps, outcomes, int((~np.isnan(verdicts) & ~np.isnan(table)).sum()), len(rows))


def said(found: Mapping[str, Any]) -> str:
    """One line for people."""

    def area(name: str) -> str:
        value, low, high = found[name]
        return f"{value:.3f} ({low:.3f} to {high:.3f})"

    steps = f"right above wrong steps {area('steps')}, {found['judged']} steps; " if found["steps"] else ""
    return f"held-out area under ROC: {steps}right above wrong answers {area('outcomes')}, {found['completions']} rows"
