"""Stated confidence against how often it was right."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from truegain.core.component import component
from truegain.core.errors import DataError
from truegain.methods.evaluation._brier_score import brier_score
from truegain.methods.evaluation._estimate import Estimate
from truegain.methods.evaluation._resample import resample_counts


@dataclass(frozen=True)
class Bin:
    """One dot of a reliability diagram: mean confidence, share right with its interval, number of items."""

    confidence: float
    correct: float
    low: float
    high: float
    count: int


@dataclass(frozen=True)
class Calibration:
    """Expected calibration error, signed gap (mean confidence - share right; above 0 is over-confident), Brier."""

    ece: Estimate
    signed: Estimate
    brier: float
    bins: tuple[Bin, ...]


def equal_mass_bins(confidence: Float[np.ndarray, "N"], *, bins: int) -> Int[np.ndarray, "N"]:
    """A bin id per item so that bins hold nearly equally many, and equal confidences are never split.

    A run of equal values goes where the middle of its ranks falls, so heavy ties give fewer, larger bins. Ids are
    consecutive from 0.

    >>> equal_mass_bins(np.array([0.1, 0.9, 0.5, 0.5, 0.2, 0.8]), bins=3).tolist()
    [0, 2, 1, 1, 0, 2]
    """
    _, inverse, counts = np.unique(confidence, return_inverse=True, return_counts=True)
    middle = (np.cumsum(counts) - 0.5 * counts) / confidence.size
    _, consecutive = np.unique(np.minimum((middle * bins).astype(np.int64), bins - 1), return_inverse=True)
    return consecutive[inverse]


def _sums(values: np.ndarray, problem: np.ndarray, which: np.ndarray, q: int, b: int) -> Float[np.ndarray, "Q B"]:
    """Sums of ``values`` by problem and bin."""
    return np.bincount(problem * b + which, weights=values, minlength=q * b).reshape(q, b)


@component("metric", cite="arXiv:1706.04599")
def calibration(
    confidence: Float[np.ndarray, "N"],
    correct: Float[np.ndarray, "N"],
    problem: Int[np.ndarray, "N"],
    *,
    bins: int = 10,
    level: float = 0.95,
    reps: int = 2000,
    seed: int = 0,
) -> Calibration:
    """Expected calibration error over equal-mass bins, with intervals by bootstrap over problems.

    ``ECE = sum_b (n_b / n) |share right in b - mean confidence in b|``. The bins are held fixed in the replicates.
    ECE is biased upward at small n, so its percentile interval is widened to hold the estimate where it must be; the
    signed gap has no such bias.

    Args:
        confidence: in [0, 1].
        correct: 0 or 1 (graded values in [0, 1] work).
        problem: which cluster each item belongs to, any integers.

    Raises DataError when there is no item. Sources: Guo et al. 2017 (arXiv 1706.04599); Nixon et al. 2019.

    >>> conf = np.array([0.95, 0.9, 0.85, 0.7, 0.65, 0.6, 0.55, 0.3])
    >>> round(calibration(conf, np.array([1.0, 1, 0, 1, 0, 1, 0, 0]), np.arange(8), bins=4).ece.value, 6)
    0.225
    """
    if confidence.size == 0 or not confidence.shape == correct.shape == problem.shape:
        raise DataError("calibration: needs items, and one confidence, correctness and problem for each")
    which = equal_mass_bins(confidence, bins=bins)
    _, index = np.unique(problem, return_inverse=True)
    q, b = int(index.max()) + 1, int(which.max()) + 1
    by_problem = [_sums(v, index, which, q, b) for v in (np.ones_like(confidence), confidence, correct)]
    n, conf, right = (m.sum(axis=0) for m in by_problem)
    draws = resample_counts(q, reps=reps, seed=seed)
    n_r, conf_r, right_r = (draws @ m for m in by_problem)
    tails = [(1.0 - level) / 2, (1.0 + level) / 2]

    def estimate(value: float, replicates: np.ndarray) -> Estimate:
        low, high = (float(v) for v in np.quantile(replicates, tails))
        return Estimate(value, min(low, value), max(high, value), float(replicates.std()), level, q)

    total = np.maximum(n_r.sum(axis=1), 1.0)
    ece = estimate(float(np.abs(right - conf).sum() / n.sum()), np.abs(right_r - conf_r).sum(axis=1) / total)
    signed = estimate(float((conf - right).sum() / n.sum()), (conf_r - right_r).sum(axis=1) / total)
    share = np.where(n_r > 0, right_r / np.maximum(n_r, 1.0), np.nan)
    low, high = np.nanquantile(share, tails, axis=0)
    dots = tuple(
        Bin(float(conf[i] / n[i]), float(right[i] / n[i]), float(low[i]), float(high[i]), int(n[i])) for i in range(b)
    )
    return Calibration(ece, signed, brier_score(confidence, correct), dots)
