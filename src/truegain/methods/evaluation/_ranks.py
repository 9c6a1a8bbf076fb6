"""Shared by the rank correlations: mean ranks, Spearman's coefficient, and how often chance gives as low a one."""

from __future__ import annotations

import itertools
import math

import numpy as np
from jaxtyping import Float

EXACT, DRAWS = 7, 9999
"""Up to so many points every order is tried; beyond, so many are drawn."""


def ranks(x: Float[np.ndarray, "N"]) -> Float[np.ndarray, "N"]:
    """Ranks from 0; equal values get the mean of theirs."""
    _, inverse, counts = np.unique(x, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts + 1) / 2)[inverse]


def correlation(a: Float[np.ndarray, "N"], b: Float[np.ndarray, "N"]) -> float:
    """Pearson's coefficient; NaN where either does not vary."""
    a, b = a - a.mean(), b - b.mean()
    scale = float(np.sqrt((a**2).sum() * (b**2).sum()))
    return round(float((a * b).sum()) / scale, 12) if scale > 0 else float("nan")


def spearman(x: Float[np.ndarray, "N"], y: Float[np.ndarray, "N"]) -> float:
    """Pearson's coefficient of the ranks; NaN for fewer than 2 points, or where either does not vary."""
    return correlation(ranks(x), ranks(y)) if len(x) > 1 else float("nan")


def chance_below(x: Float[np.ndarray, "N"], y: Float[np.ndarray, "N"], *, seed: int = 0) -> float:
    """How often orders of y drawn by chance give a Spearman's coefficient as low as the one seen; NaN if there is none.

    Exact for up to 7 points, from 9999 draws beyond, the order seen counted among them.
    """
    if math.isnan(spearman(x, y)):
        return float("nan")
    a, b = ranks(x) - ranks(x).mean(), ranks(y)
    if len(b) <= EXACT:
        sums = np.array(list(itertools.permutations(b))) @ a
        return float((sums <= a @ b + 1e-9).mean())
    sums = np.random.default_rng(seed).permuted(np.tile(b, (DRAWS, 1)), axis=1) @ a
    return float(((sums <= a @ b + 1e-9).sum() + 1) / (DRAWS + 1))
