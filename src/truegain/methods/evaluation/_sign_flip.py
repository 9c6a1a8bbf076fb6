"""A test of a paired difference that assumes nothing but symmetry under the null."""

from __future__ import annotations

import itertools

import numpy as np
from jaxtyping import Float

from truegain.core.component import component


@component("metric", cite="Fisher 1935")
def sign_flip(difference: Float[np.ndarray, "Q"], *, flips: int = 10_000, seed: int = 0) -> float:
    """The two-sided p value of ``mean(difference) = 0`` when the sign of each problem's difference is arbitrary.

    The share of sign vectors s with ``|mean(s d)| >= |mean(d)|``: over all 2^Q of them when that is at most ``flips``,
    otherwise over ``flips`` random ones plus the observed one, so that p is never 0. Zeros are inert. NaN is dropped.

    >>> sign_flip(np.array([0.25, 0.0, 0.0, 0.25]))
    0.5
    """
    d = difference[~np.isnan(difference)]
    d = d[d != 0.0]
    if d.size == 0:
        return 1.0
    observed = abs(d.sum()) - 1e-12 * np.abs(d).sum()
    if d.size <= 30 and 2**d.size <= flips:
        signs = np.array(list(itertools.product((1.0, -1.0), repeat=d.size)))
        return float((np.abs(signs @ d) >= observed).mean())
    rng = np.random.default_rng(seed)
    hits = 0
    for start in range(0, flips, 1000):
        signs = 2.0 * (rng.random((min(1000, flips - start), d.size)) < 0.5) - 1.0
        hits += int((np.abs(signs @ d) >= observed).sum())
    return (hits + 1) / (flips + 1)
