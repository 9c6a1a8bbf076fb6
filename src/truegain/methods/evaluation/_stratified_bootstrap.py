"""Bootstrap replicates of a runs x tasks table whose tasks were trained separately."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from truegain.core.component import component
from truegain.core.errors import DataError


@component("metric", cite="arXiv:2108.13264")
def stratified_bootstrap(
    scores: Float[np.ndarray, "N M"], *, reps: int = 10_000, seed: int = 0
) -> Float[np.ndarray, "R N M"]:
    """Replicates in which each task's N runs are drawn with replacement, independently of the other tasks.

    Apply a statistic over the last two axes and take percentiles. It is right where every run of every task is its own
    training; where all columns come from the same training runs, `nested_bootstrap` is. One run gives replicates that
    do not vary; below five the percentiles are too narrow.

    Source: Agarwal et al. 2021 (arXiv 2108.13264). Draws come from a local generator, so a seed fixes them.

    >>> S = np.array([[0.1, 0.5], [0.2, 0.6], [0.3, 0.4]])
    >>> stratified_bootstrap(S, reps=7).shape
    (7, 3, 2)
    """
    if scores.ndim != 2 or 0 in scores.shape:
        raise DataError(f"stratified_bootstrap: expected runs x tasks, got shape {scores.shape}")
    n, m = scores.shape
    drawn = np.random.default_rng(seed).integers(0, n, size=(reps, n, m))
    return scores[drawn, np.arange(m)]
