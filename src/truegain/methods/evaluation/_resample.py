"""Shared by the bootstraps: how often each cluster is drawn in each replicate."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float


def resample_counts(clusters: int, *, reps: int, seed: int) -> Float[np.ndarray, "R Q"]:
    """Draw ``clusters`` of ``clusters`` with replacement, ``reps`` times; entry [r, q] counts the draws of q."""
    rng = np.random.default_rng(seed)
    return rng.multinomial(clusters, np.full(clusters, 1.0 / clusters), size=reps).astype(np.float64)
