"""Bootstrap replicates of a runs x tasks table, down to the problems behind each score."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from truegain.core.component import component
from truegain.core.errors import DataError


@component("metric", cite="truegain")
def nested_bootstrap(
    tasks: Sequence[Float[np.ndarray, "_N _P"]], *, reps: int = 2000, seed: int = 0, problem_seed: int = 0
) -> Float[np.ndarray, "R N M"]:
    """Replicates of each run's score on each task: runs drawn within each task, problems drawn within each task.

    All runs of a replicate see the same drawn problems, as they did in truth; a run's problems are never mixed with
    another's, so what its training did to all problems alike stays in. Tasks count as separate trainings. Two methods
    compared with the same ``problem_seed`` (and equally many problems) are compared on the same draws of problems.

    Args:
        tasks: for each task one score per run and problem, no NaN; the number of problems may differ, runs may not.

    >>> nested_bootstrap([np.ones((3, 5)), np.zeros((3, 9))], reps=4).mean(axis=(0, 1)).tolist()
    [1.0, 0.0]
    """
    runs = {t.shape[0] for t in tasks}
    if len(runs) != 1 or any(0 in t.shape or np.isnan(t).any() for t in tasks):
        raise DataError(f"nested_bootstrap: every task needs the same number of runs (found {sorted(runs)}) and no NaN")
    n = runs.pop()
    run_rng, problem_rng = np.random.default_rng(seed), np.random.default_rng([1, problem_seed])
    columns: list[np.ndarray] = []
    for scores in tasks:
        p = scores.shape[1]
        counts = problem_rng.multinomial(p, np.full(p, 1.0 / p), size=reps).astype(np.float64)
        drawn = run_rng.integers(0, n, size=(reps, n))
        columns.append(np.take_along_axis(counts @ scores.T / p, drawn, axis=1))
    return np.stack(columns, axis=-1)
