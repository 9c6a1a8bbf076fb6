"""Unbiased pass@k."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Num

from truegain.core.component import component
from truegain.core.errors import DataError


@component("metric", cite="arXiv:2107.03374")
def pass_at_k(n: Num[np.ndarray, "P"], c: Num[np.ndarray, "P"], *, k: int = 1) -> Float[np.ndarray, "P"]:
    """The probability that at least one of k fresh samples is right, without bias, for each problem.

    ``pass@k = 1 - C(n-c, k) / C(n, k) = 1 - prod_{i=0..k-1} (n-c-i) / (n-i)``, which is 1 when n - c < k.
    The plug-in ``1 - (1 - c/n)^k`` is biased low; the product needs no large factorials.

    Args:
        n: samples drawn for each problem, each at least ``k``.
        c: how many of them were right, in [0, n].
        k: at least 1.

    Raises DataError when a problem has fewer than ``k`` samples or ``c`` lies outside [0, n].
    Source: Chen et al. 2021, "Evaluating Large Language Models Trained on Code" (arXiv 2107.03374).

    >>> pass_at_k(np.array([8, 8]), np.array([3, 0]), k=2).round(6).tolist()
    [0.642857, 0.0]
    """
    total, right = np.asarray(n, dtype=np.float64), np.asarray(c, dtype=np.float64)
    if k < 1 or (total < k).any():
        raise DataError(f"pass_at_k: k={k} needs 1 <= k <= samples; the fewest is {total.min(initial=np.inf):g}")
    if (right < 0).any() or (right > total).any():
        raise DataError("pass_at_k: the number of right samples must lie between 0 and the number drawn")
    drawn = np.arange(k)
    all_wrong = np.clip(total[:, None] - right[:, None] - drawn, 0.0, None) / (total[:, None] - drawn)
    return 1.0 - all_wrong.prod(axis=1)
