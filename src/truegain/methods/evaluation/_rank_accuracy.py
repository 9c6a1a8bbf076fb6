"""How well a score ranks right above wrong, with an interval over problems."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int

from truegain.core.component import component
from truegain.methods.evaluation._estimate import Estimate
from truegain.methods.evaluation._resample import resample_counts


@component("metric", cite="Hanley and McNeil 1982")
def rank_accuracy(
    score: Float[np.ndarray, "N"],
    correct: Float[np.ndarray, "N"],
    problem: Int[np.ndarray, "N"],
    *,
    level: float = 0.95,
    reps: int = 1000,
    seed: int = 0,
) -> Estimate:
    """The area under the ROC curve: chance that a right one scores above a wrong one, ties half.

    ``correct`` above 0.5 is right. The interval is the percentile bootstrap over problems, whose items are drawn
    together. Items with NaN in either are dropped. Without items of both kinds, or with one problem, all is NaN;
    replicates without both kinds are left out.

    >>> rank_accuracy(np.array([0.9, 0.2, 0.5, 0.5]), np.array([1.0, 0.0, 1.0, 0.0]), np.array([0, 0, 1, 1])).value
    0.875
    """
    known = ~(np.isnan(score) | np.isnan(correct))
    dropped, nan = int((~known).sum()), float("nan")
    score, right = score[known], correct[known] > 0.5
    _, cluster = np.unique(problem[known], return_inverse=True)
    count = int(cluster.max()) + 1 if cluster.size else 0
    if not right.any() or right.all():
        return Estimate(nan, nan, nan, nan, level, count, dropped)
    _, place = np.unique(score, return_inverse=True)
    value = float(_areas(np.ones((1, count)), cluster, right, place)[0])
    if count < 2:
        return Estimate(value, nan, nan, nan, level, count, dropped)
    areas = _areas(resample_counts(count, reps=reps, seed=seed), cluster, right, place)
    areas = areas[~np.isnan(areas)]
    low, high = np.quantile(areas, [(1 - level) / 2, (1 + level) / 2])
    return Estimate(value, float(low), float(high), float(areas.std(ddof=1)), level, count, dropped)


def _areas(counts: np.ndarray, cluster: np.ndarray, right: np.ndarray, place: np.ndarray) -> Float[np.ndarray, "R"]:
    """The area in each replicate, given how often it drew each problem [R,P] and the rank of each score [N]."""
    size = int(place.max()) + 1
    out = np.empty(len(counts))
    for r, drawn in enumerate(counts):
        weight = drawn[cluster].astype(float)
        good = np.bincount(place, weight * right, minlength=size)
        bad = np.bincount(place, weight * ~right, minlength=size)
        pairs = good.sum() * bad.sum()
        out[r] = (good * (bad.cumsum() - bad / 2)).sum() / pairs if pairs else np.nan
    return out
