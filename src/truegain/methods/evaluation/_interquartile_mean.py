"""The interquartile mean."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from truegain.core.component import component
from truegain.core.errors import DataError


@component("metric", cite="arXiv:2108.13264")
def interquartile_mean(scores: Float[np.ndarray, "*R N M"], *, trim: float = 0.25) -> Float[np.ndarray, "*R"]:
    """The mean of all runs x tasks scores after dropping ``floor(trim N M)`` from each end.

    Leading axes (bootstrap replicates) are kept. ``trim`` in [0, 0.5): 0 is the mean. Raises DataError on NaN: a run
    that crashed is scored at a declared floor, never dropped.

    Source: Agarwal et al. 2021, "Deep RL at the Edge of the Statistical Precipice" (arXiv 2108.13264).

    >>> S = np.array([[0.1, 0.5, 0.9], [0.2, 0.6, 0.8], [0.3, 0.4, 1.0], [0.0, 0.7, 0.7]])
    >>> round(float(interquartile_mean(S)), 6)
    0.533333
    """
    if np.isnan(scores).any():
        raise DataError("interquartile_mean: a score is NaN; score a crashed run at a declared floor, do not drop it")
    flat = np.sort(scores.reshape(*scores.shape[:-2], -1), axis=-1)
    cut = int(trim * flat.shape[-1])
    return np.asarray(flat[..., cut : flat.shape[-1] - cut].mean(axis=-1))
