"""The Brier score."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from truegain.core.component import component
from truegain.core.errors import DataError


@component("metric", cite="Brier 1950")
def brier_score(confidence: Float[np.ndarray, "N"], correct: Float[np.ndarray, "N"]) -> float:
    """``mean (confidence - correct)^2``, in [0, 1], lower is better; least in expectation at the true probability.

    Raises DataError when there is no item. Source: Brier 1950.

    >>> c, a = np.array([0.9, 0.9, 0.6, 0.6, 0.6, 0.3]), np.array([1.0, 1, 1, 0, 1, 0])
    >>> round(brier_score(c, a), 6)
    0.131667
    """
    if confidence.size == 0 or confidence.shape != correct.shape:
        raise DataError(f"brier_score: needs items, and as many confidences {confidence.shape} as {correct.shape}")
    return float(((confidence - correct) ** 2).mean())
