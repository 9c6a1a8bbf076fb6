"""Accuracy with length held equal."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from truegain.core.component import component
from truegain.core.errors import DataError
from truegain.methods.evaluation._estimate import Estimate
from truegain.methods.evaluation._resample import resample_counts


@dataclass(frozen=True)
class Stratum:
    """Samples of ``low`` to ``high`` tokens: accuracy and count of each arm (NaN when it has none), and the weight."""

    low: float
    high: float
    weight: float
    accuracy_a: float
    accuracy_b: float
    count_a: int
    count_b: int


@dataclass(frozen=True)
class LengthMatched:
    """Accuracies reweighted to one length distribution, and their difference b - a.

    ``covered`` is the share of the pooled distribution that lies in strata where both arms have samples. ``wrong``
    counts the wrong answers of both arms, once per problem and stratum; ``matched`` those of them that can be set, one
    to one, against a problem that the other arm answered in the same stratum. Where few can, length tells right from
    wrong, and a difference of 0 at equal length says nothing.
    """

    accuracy_a: float
    accuracy_b: float
    difference: Estimate
    covered: float
    wrong: int
    matched: int
    strata: tuple[Stratum, ...]


def _strata(tokens: np.ndarray, arm: np.ndarray, strata: int) -> tuple[np.ndarray, list[tuple[float, float]]]:
    """A stratum per sample by pooled quantiles, equal lengths never split, and the first and last length of each."""
    per_arm = np.bincount(arm)
    values, inverse = np.unique(tokens, return_inverse=True)
    mass = np.bincount(inverse, weights=0.5 / per_arm[arm])
    middle = np.cumsum(mass) - mass / 2
    place = np.minimum((middle * strata).astype(np.int64), strata - 1)
    _, merged = np.unique(place, return_inverse=True)
    borders = [(float(v.min()), float(v.max())) for v in (values[merged == i] for i in range(int(merged.max()) + 1))]
    return merged[inverse], borders


def _matched(n: np.ndarray, right: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """From [2, R, B] counts and right counts: the matched accuracies [2, R], weights [R, B], coverage [R]."""
    share = n / np.maximum(n.sum(axis=-1, keepdims=True), 1.0)
    pooled = share.mean(axis=0)
    common = (n > 0).all(axis=0)
    covered = (pooled * common).sum(axis=-1)
    weight = pooled * common / np.maximum(covered, 1e-300)[..., None]
    accuracy = (right / np.maximum(n, 1.0) * weight[None]).sum(axis=-1)
    return np.where(covered > 0, accuracy, np.nan), weight, covered


@component("metric", cite="truegain")
def length_matched(
    tokens_a: Float[np.ndarray, "A"],
    correct_a: Float[np.ndarray, "A"],
    problem_a: Int[np.ndarray, "A"],
    tokens_b: Float[np.ndarray, "B"],
    correct_b: Float[np.ndarray, "B"],
    problem_b: Int[np.ndarray, "B"],
    *,
    strata: int = 5,
    level: float = 0.95,
    reps: int = 2000,
    seed: int = 0,
) -> LengthMatched:
    """Compare two arms within common strata of completion length, so that a gain bought by length shows.

    Stratum borders are quantiles of the pooled lengths, each arm counting half whatever its number of samples. With
    ``w_l`` the pooled share of stratum l over the strata in which both arms have samples,
    ``accuracy_x = sum_l w_l accuracy_{x,l}``. The interval is a percentile bootstrap over problems, borders fixed.

    Args:
        tokens_a, tokens_b: completion lengths.
        correct_a, correct_b: 0 or 1, no NaN.
        problem_a, problem_b: cluster ids; an id means the same problem in both arms.

    Raises DataError when an arm is empty. It is a description, not a causal claim: length may follow difficulty.

    >>> t, p = np.array([1.0, 2, 8, 9]), np.arange(4)
    >>> short_is_right = np.array([1.0, 1, 0, 0])
    >>> length_matched(t, short_is_right, p, t, short_is_right, p, strata=2).difference.value
    0.0
    """
    if tokens_a.size == 0 or tokens_b.size == 0:
        raise DataError("length_matched: an arm has no sample")
    tokens = np.concatenate([tokens_a, tokens_b])
    arm = np.repeat([0, 1], [tokens_a.size, tokens_b.size])
    stratum, borders = _strata(tokens, arm, strata)
    _, problem = np.unique(np.concatenate([problem_a, problem_b]), return_inverse=True)
    q, b = int(problem.max()) + 1, len(borders)
    cell = (arm * q + problem) * b + stratum
    n, right = (
        np.bincount(cell, weights=w, minlength=2 * q * b).reshape(2, q, b)
        for w in (np.ones_like(tokens), np.concatenate([correct_a, correct_b]))
    )
    wrong, answered = (n > right).sum(axis=1), (n > 0).sum(axis=1)
    count, hits = n.sum(axis=1), right.sum(axis=1)
    accuracy, weight, covered = _matched(count[:, None], hits[:, None])
    draws = resample_counts(q, reps=reps, seed=seed)
    replicates, _, _ = _matched(draws @ n, draws @ right)
    delta = replicates[1] - replicates[0]
    delta = delta[~np.isnan(delta)]
    low, high, spread = float("nan"), float("nan"), float("nan")
    if delta.size:
        low, high = (float(v) for v in np.quantile(delta, [(1 - level) / 2, (1 + level) / 2]))
        spread = float(delta.std())
    estimate = Estimate(float(accuracy[1, 0] - accuracy[0, 0]), low, high, spread, level, q)
    rate = np.where(count > 0, hits / np.maximum(count, 1.0), np.nan)
    rows = tuple(
        Stratum(
            *borders[i], float(weight[0, i]), float(rate[0, i]), float(rate[1, i]), int(count[0, i]), int(count[1, i])
        )
        for i in range(b)
    )
    found = (float(accuracy[0, 0]), float(accuracy[1, 0]), estimate, float(covered[0]))
    return LengthMatched(
        *found, wrong=int(wrong.sum()), matched=int(np.minimum(wrong, answered[::-1]).sum()), strata=rows
    )
