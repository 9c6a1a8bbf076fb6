"""Evidence that scores have fallen, from two looks at the same problems."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from truegain.core.component import component
from truegain.core.errors import DataError, SettingError

BETS = np.array([0.02, 0.05, *np.arange(1, 10) / 10])
"""Shares of the wealth that are staked; the evidence is the mean over them."""
BLOCK = 128


@component("metric", cite=("arXiv:2010.09686", "arXiv:1912.06116"))
def gap_evidence(reference: Float[np.ndarray, "P"], now: Float[np.ndarray, "P"], *, margin: float = 0.0) -> float:
    """The logarithm of an e-value against "``now`` is on average no more than ``margin`` below ``reference``".

    Scores lie in [0, 1], one per problem and look; D_i = reference_i - now_i lies in [-1, 1]. The wealth of a gambler
    who stakes the share b on every problem,

        K(b) = prod_i (1 + b (D_i - margin) / (1 + margin)),     K = mean over b of K(b),

    has mean at most 1 under the null hypothesis, so that P(K >= 1/a) <= a: exactly, for every number of problems, with
    no normal approximation. That holds where pairs are drawn independently from one population (E D <= margin gives
    each factor a mean of 1 at most), and where the problems are fixed and only their completions random, each with a
    mean of its own (then the means of the factors have a geometric mean of 1 at most, by that of arithmetic means). The
    order of problems does not matter. Pairing uses that hard problems are hard at both looks.

    A pair with NaN is not bet on; without any, the result is 0: no evidence. ``margin`` in (-1, 1).
    Raises DataError for scores outside [0, 1] and lengths that differ, SettingError for the margin.
    Source: Waudby-Smith and Ramdas 2024, "Estimating means of bounded random variables by betting"; the mean of
    e-values is one, Vovk and Wang 2021.

    >>> reference, now = np.array([1.0, 1.0, 1.0, 0.0]), np.array([0.0, 0.0, 0.0, 0.0])
    >>> bet = np.mean([(1 + b) ** 3 for b in (0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)])
    >>> bool(np.isclose(np.exp(gap_evidence(reference, now)), bet))
    True
    """
    if reference.shape != now.shape:
        raise DataError(f"gap_evidence: {reference.shape} scores and {now.shape} now; give one of each per problem")
    return float(log_wealth(check_scores(reference)[None] - check_scores(now), margin)[0])


def log_wealth(differences: Float[np.ndarray, "R P"], margin: float) -> Float[np.ndarray, "R"]:
    """The logarithm of K for each row of differences; see `gap_evidence`."""
    if not -1 < margin < 1:
        raise SettingError(f"guard: margin={margin} must lie between -1 and 1")
    gain = np.nan_to_num((differences - margin) / (1 + margin), nan=0.0)
    if not gain.size:
        return np.zeros(len(gain))
    # Factors lie in [0.1, 1.9], so products of a block stay far from the ends of a float64 and spare the logarithms.
    factors = 1 + BETS[:, None, None] * gain
    return log_mean(np.log(np.multiply.reduceat(factors, range(0, gain.shape[1], BLOCK), axis=2)).sum(axis=2))


def log_mean(logs: Float[np.ndarray, "B R"]) -> Float[np.ndarray, "R"]:
    """The logarithm of the mean of exponentials over the first axis."""
    return np.logaddexp.reduce(logs, axis=0) - np.log(len(logs))


def check_scores(scores: Float[np.ndarray, "*S"]) -> Float[np.ndarray, "*S"]:
    """The scores. Raises DataError if one lies outside [0, 1]; NaN is none."""
    if bool(((scores < 0) | (scores > 1)).any()):
        raise DataError("guard: a gold score lies outside [0, 1]; scale it by its known bounds first")
    return scores
