"""The laws of reward-model over-optimisation: gold as a function of the distance d = sqrt(KL) from the base policy."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from truegain.core.component import component
from truegain.core.errors import DataError


@dataclass(frozen=True)
class LawFit:
    """A fitted law: its two coefficients with standard errors, where gold peaks (inf if it never falls), and R^2."""

    alpha: float
    beta: float
    alpha_se: float
    beta_se: float
    peak: float
    at_peak: float
    r2: float


@component("metric", cite="arXiv:2210.10760")
def overoptimization_bon(distance: Float[np.ndarray, "K"], gold: Float[np.ndarray, "K"]) -> LawFit:
    """Fit ``R(d) = d (alpha - beta d)``, the law of best-of-n, by least squares, in which it is linear.

    ``gold`` is relative to the base policy's; ``distance`` is sqrt(KL), 0 or more, and d = 0 says nothing. The peak
    is at ``alpha / 2 beta`` and of height ``alpha^2 / 4 beta``; with beta <= 0 gold never falls and the peak is inf.
    Raises DataError for fewer than 3 points of different distances above 0, or one that is not finite.
    Source: Gao, Schulman and Hilton 2022, section 3.1.

    >>> d = np.array([0.0, 1.0, 2.0, 4.0])
    >>> fit = overoptimization_bon(d, d * (1.0 - 0.2 * d))
    >>> [round(v, 4) for v in (fit.alpha, fit.beta, fit.peak, fit.at_peak)]
    [1.0, 0.2, 2.5, 1.25]
    """
    d, r = _checked(distance, gold)
    alpha, beta, errors, r2 = _least_squares(np.stack([d, -(d**2)], axis=1), r)
    # A beta that is all rounding puts the peak a million times beyond the last point: that is none.
    falls = alpha > 0 and beta * float(d.max()) > 1e-6 * alpha
    peak = alpha / (2 * beta) if falls else math.inf
    return LawFit(alpha, beta, *errors, peak, alpha * peak / 2 if falls else math.inf, r2)


@component("metric", cite="arXiv:2210.10760")
def overoptimization_rl(distance: Float[np.ndarray, "K"], gold: Float[np.ndarray, "K"]) -> LawFit:
    """Fit ``R(d) = d (alpha - beta log d)``, the law of RL, by least squares, in which it is linear.

    As `overoptimization_bon`; the peak is at ``exp(alpha / beta - 1)`` and of height ``beta`` times that. The law's
    slope at 0 is infinite, so only d > 0 is fitted. Source: Gao, Schulman and Hilton 2022, section 3.1.

    >>> d = np.array([0.0, 1.0, 2.0, 4.0])
    >>> fit = overoptimization_rl(d, np.array([0.0, 1.0, 1.44548, 1.78193]))
    >>> [round(v, 3) for v in (fit.alpha, fit.beta, fit.peak, fit.at_peak)]
    [1.0, 0.4, 4.482, 1.793]
    """
    d, r = _checked(distance, gold)
    alpha, beta, errors, r2 = _least_squares(np.stack([d, -d * np.log(d)], axis=1), r)
    # exp overflows where beta is all but 0: a peak that far away is none.
    falls = beta > 0 and alpha / beta < 700
    peak = math.exp(alpha / beta - 1) if falls else math.inf
    return LawFit(alpha, beta, *errors, peak, beta * peak if falls else math.inf, r2)


def law_bon(distance: Float[np.ndarray, "K"], fit: LawFit) -> Float[np.ndarray, "K"]:
    """The best-of-n law at these distances."""
    return distance * (fit.alpha - fit.beta * distance)


def law_rl(distance: Float[np.ndarray, "K"], fit: LawFit) -> Float[np.ndarray, "K"]:
    """The RL law at these distances; 0 at 0."""
    return distance * (fit.alpha - fit.beta * np.log(np.where(distance > 0, distance, 1.0)))


def _checked(distance: np.ndarray, gold: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    if distance.shape != gold.shape or not (np.isfinite(distance).all() and np.isfinite(gold).all()):
        raise DataError("overoptimization: distance and gold must be equally many finite numbers")
    if bool((distance < 0).any()):
        raise DataError("overoptimization: a distance is negative; it is the root of the KL")
    kept = distance > 0
    if len(np.unique(distance[kept])) < 3:
        raise DataError("overoptimization: the two coefficients take at least 3 different distances above 0")
    return distance[kept].astype(np.float64), gold[kept].astype(np.float64)


def _least_squares(x: np.ndarray, y: np.ndarray) -> tuple[float, float, tuple[float, float], float]:
    found, *_ = np.linalg.lstsq(x, y, rcond=None)
    left = float(((y - x @ found) ** 2).sum())
    errors = np.sqrt(np.diag(np.linalg.inv(x.T @ x)) * left / (len(y) - 2))
    spread = float(((y - y.mean()) ** 2).sum())
    return float(found[0]), float(found[1]), (float(errors[0]), float(errors[1])), 1 - left / spread if spread else 1.0
