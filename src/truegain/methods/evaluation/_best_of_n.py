"""The gold score of the completion that a proxy picks among n."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from truegain.core.component import component
from truegain.core.errors import DataError


@component("metric", cite=("arXiv:2112.09332", "github:tlc4418/llm_optimization src/bon/bon_sampling.py"))
def best_of_n(proxy: Float[np.ndarray, "P K"], gold: Float[np.ndarray, "P K"], *, n: int = 1) -> Float[np.ndarray, "P"]:
    """The expected gold score of the best of n fresh completions by the proxy, without bias, for each problem.

    Over all subsets of n of a problem's K completions, sorted by proxy: the pick has rank i (1 is the lowest) with
    probability ``C(i-1, n-1) / C(K, n)``, so the value is ``sum_i gold_(i) C(i-1, n-1) / C(K, n)``. Equal proxies share
    the probability of their ranks, as when ties are broken at random. With ``gold = proxy`` it is the proxy's own.

    Args:
        proxy: what is optimised; NaN (the proxy abstained) ranks below every number.
        gold: what is wanted, finite.
        n: completions that the pick is made among, from 1 to K.

    Raises DataError for an n out of bounds, shapes that differ and gold that is not finite.
    Source: Nakano et al. 2021, "WebGPT" (arXiv 2112.09332), section 4.2.

    >>> best_of_n(np.array([[1.0, 2.0, 3.0]]), np.array([[0.0, 1.0, 0.5]]), n=2).round(6).tolist()
    [0.666667]
    """
    if proxy.shape != gold.shape or proxy.ndim != 2:
        raise DataError(f"best_of_n: expected two tables problems x completions, got {proxy.shape} and {gold.shape}")
    count = proxy.shape[1]
    if not 1 <= n <= count:
        raise DataError(f"best_of_n: n={n} must lie between 1 and the {count} completions of a problem")
    if not np.isfinite(gold).all():
        raise DataError("best_of_n: a gold score is not finite")
    weights = rank_weights(count, n)
    out = np.empty(len(proxy))
    for row, (scores, values) in enumerate(zip(np.where(np.isnan(proxy), -np.inf, proxy), gold, strict=True)):
        order = np.argsort(scores, kind="stable")
        _, tie = np.unique(scores[order], return_inverse=True)
        shared = np.bincount(tie, weights=weights) / np.bincount(tie)
        out[row] = float(shared[tie] @ values[order])
    return out


def rank_weights(count: int, n: int) -> Float[np.ndarray, "K"]:
    """How likely the completion of each rank is the best of n drawn from ``count`` without replacement. Sums to 1.

    >>> rank_weights(4, 2).round(4).tolist()  # C(i-1, 1) / C(4, 2) = 0, 1, 2, 3 of 6
    [0.0, 0.1667, 0.3333, 0.5]
    """
    # Downwards from the best, n / K: w_{i-1} = w_i (i - n) / (i - 1), of ratios below 1, so that nothing overflows.
    rank = np.arange(count, 1, -1, dtype=np.float64)
    falling = np.concatenate([[n / count], np.maximum(rank - n, 0.0) / (rank - 1)])
    return np.cumprod(falling)[::-1]
