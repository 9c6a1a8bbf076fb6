"""Shared by the bootstraps: how often each cluster is drawn in each replicate."""

from __future__ import annotations

import functools

import numpy as np
from jaxtyping import Float


@functools.lru_cache(maxsize=2)
def resample_counts(clusters: int, *, reps: int, seed: int) -> Float[np.ndarray, "R Q"]:
    """Draw ``clusters`` of ``clusters`` with replacement, ``reps`` times; entry [r, q] counts the draws of q.

    The last two tables are kept, read-only: one report asks for the same one several times.
    """
    rng = np.random.default_rng(seed)
    counts = rng.multinomial(clusters, np.full(clusters, 1.0 / clusters), size=reps).astype(np.float64)
    counts.setflags(write=False)
    return counts
