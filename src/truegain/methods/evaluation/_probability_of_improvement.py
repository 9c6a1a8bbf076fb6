"""How often one method beats another."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from truegain.core.component import component
from truegain.core.errors import DataError


@component("metric", cite="arXiv:2108.13264")
def probability_of_improvement(
    x: Float[np.ndarray, "*R N M"], y: Float[np.ndarray, "*R L M"]
) -> Float[np.ndarray, "*R"]:
    """The chance that a random run of X beats a random run of Y on a random task, ties counting half.

    ``P = (1/M) sum_m (1/(N L)) sum_ij [1(x_im > y_jm) + 0.5 1(x_im = y_jm)]``. It says how often, not by how much.
    Leading axes (bootstrap replicates, drawn independently for X and Y) are kept.

    Source: Agarwal et al. 2021 (arXiv 2108.13264).

    >>> S = np.array([[0.1, 0.5, 0.9], [0.2, 0.6, 0.8], [0.3, 0.4, 1.0], [0.0, 0.7, 0.7]])
    >>> round(float(probability_of_improvement(S, S - np.array([0.05, 0.0, 0.1]))), 6)
    0.604167
    """
    if x.shape[-1] != y.shape[-1]:
        raise DataError(f"probability_of_improvement: {x.shape[-1]} tasks against {y.shape[-1]}; give the same tasks")
    a, b = x[..., :, None, :], y[..., None, :, :]
    return np.asarray(((a > b) + 0.5 * (a == b)).mean(axis=(-3, -2, -1)))
