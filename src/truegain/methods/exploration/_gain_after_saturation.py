"""What is still learned once training accuracy cannot rise."""

from __future__ import annotations

import numpy as np
from jaxtyping import Num

from truegain.core.component import component
from truegain.core.errors import DataError


@component("metric", cite=("arXiv:2504.20571", "github.com/ypwang61/One-Shot-RLVR"))
def gain_after_saturation(train: Num[np.ndarray, "N"], test: Num[np.ndarray, "N"], *, level: float = 0.99) -> float:
    """Test accuracy at the end minus that at the first look where training accuracy had reached ``level``.

    Args:
        train: training accuracy at each look, in order.
        test: test accuracy at the same looks.
        level: what counts as saturated, in (0, 1].

    NaN where training never saturated. Raises DataError for a level out of bounds.
    Source: Wang et al. 2025, post-saturation generalisation.

    >>> gain_after_saturation(np.array([0.5, 1.0, 0.9]), np.array([0.25, 0.5, 0.75]))
    0.25
    """
    if not 0 < level <= 1:
        raise DataError(f"gain_after_saturation: level={level} must lie above 0 and be at most 1")
    reached = np.flatnonzero(np.asarray(train) >= level)
    return float(test[-1] - test[reached[0]]) if len(reached) else float("nan")
