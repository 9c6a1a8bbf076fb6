"""Arms of a claim: train a form on a throw-away folder, and measure what came out."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np

from truegain.core.forms import Train
from truegain.policy.policy import Policy
from truegain.rollout.engines import engine_for
from truegain.tasks import make
from truegain.train.folder import RunFolder
from truegain.train.online import Setup, train
from truegain.train.run import fitted
from truegain.train.truth import draw, fixed_problems, gold_of


def trained_accuracy(
    form: Train, *, model: str, task: str, seed: int, temperature: float = 1.0, count: int = 200, samples: int = 4
) -> float:
    """Train ``model`` on ``task`` by the form; the share of right completions on ``count`` unseen test problems."""
    made = make(task)
    form = fitted(form, made)
    with tempfile.TemporaryDirectory() as place, RunFolder(Path(place) / "run") as folder:
        setup = Setup(form, Policy.load(model), made, folder, seed)
        for _ in train(setup, lambda: None):
            pass
        asked = fixed_problems(made, "test", count)
        rollouts = draw(
            setup,
            setup.policy,
            engine_for(setup.policy),
            asked,
            temperature=temperature,
            samples=samples,
            stage="claim",
            step=0,
        )
    return float(np.nanmean(gold_of(rollouts)))
