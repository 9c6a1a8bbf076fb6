"""One number per problem."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from truegain.core.component import component


@component("metric", cite="arXiv:2411.00640")
def problem_means(x: Float[np.ndarray, "P K"]) -> Float[np.ndarray, "P"]:
    """The mean over each problem's valid samples; NaN marks an abstained or absent sample, and a problem without any.

    >>> problem_means(np.array([[1.0, 0.0], [1.0, np.nan], [np.nan, np.nan]])).tolist()
    [0.5, 1.0, nan]
    """
    valid = ~np.isnan(x)
    count = valid.sum(axis=1)
    total = np.where(valid, x, 0.0).sum(axis=1)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)
