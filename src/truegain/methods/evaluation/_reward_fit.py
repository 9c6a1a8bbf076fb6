"""How well rewards say what they stand for: the coefficient of determination of real scores on binned rewards."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from truegain.core.component import component
from truegain.core.errors import DataError


@component("metric", cite="arXiv:2409.06957")
def reward_fit(
    reward: Float[np.ndarray, "N"], score: Float[np.ndarray, "N"], weight: Float[np.ndarray, "N"], *, bins: int = 10
) -> float:
    """R^2 of the real ``score`` on the ``reward``, over bins of equal width, each counting by its ``weight``.

    Rows are put into ``bins`` of equal width over the range of the rewards; a bin's reward and score are the weighted
    means of its rows, its weight their sum. The squared weighted correlation over the bins is in [0, 1], 1 where real
    scores are a straight line in the reward. ``weight`` >= 0 is how often a filter would train on the row: 1 for all
    is no filter; of several filters take the one with the largest R^2. ``bins=0`` takes every row as its own bin.

    NaN where fewer than two different rewards have weight; 0 where the scores of all bins are equal. Raises DataError
    for sizes that differ, no rows, numbers that are not finite, or weights below 0.
    Source: Shen and Zhang 2024 (PF-PPO), the choice of the filter; how its bins are weighted is not published.

    >>> bins, real = np.array([0.0, 0.2, 0.5, 0.8, 1.0]), np.array([0.0, 0.5, 0.1, 0.6, 1.0])
    >>> [round(reward_fit(bins, real, w, bins=0), 5) for w in (np.ones(5), np.array([1.0, 1.0, 0.0, 1.0, 1.0]))]
    [0.63357, 0.81397]
    """
    if not reward.shape == score.shape == weight.shape or not reward.size or bins < 0:
        raise DataError(
            f"reward_fit: shapes {reward.shape}, {score.shape}, {weight.shape}, bins={bins}; give equal ones"
        )
    if not all(np.isfinite(x).all() for x in (reward, score, weight)) or (weight < 0).any():
        raise DataError("reward_fit: rewards, scores and weights must be finite, and weights 0 or more")
    low, width = float(reward.min()), float(np.ptp(reward))
    place = np.arange(reward.size)
    if bins and width:
        place = np.minimum(((reward - low) / width * bins).astype(np.int64), bins - 1)
    total = np.bincount(place, weight)
    used = total > 0
    x = np.bincount(place, weight * reward)[used] / total[used]
    y = np.bincount(place, weight * score)[used] / total[used]
    share = total[used] / total.sum()
    x, y = x - (share * x).sum(), y - (share * y).sum()
    if used.sum() < 2 or not (share * x * x).sum():
        return float("nan")
    spread = (share * y * y).sum()
    return float((share * x * y).sum() ** 2 / ((share * x * x).sum() * spread)) if spread else 0.0
