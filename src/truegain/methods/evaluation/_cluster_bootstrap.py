"""The BCa bootstrap of a mean over problems."""

from __future__ import annotations

from statistics import NormalDist

import numpy as np
from jaxtyping import Float

from truegain.core.component import component
from truegain.methods.evaluation._estimate import Estimate
from truegain.methods.evaluation._resample import resample_counts


@component("metric", cite="Efron 1987")
def cluster_bootstrap(
    values: Float[np.ndarray, "Q"], *, level: float = 0.95, reps: int = 10_000, seed: int = 0
) -> Estimate:
    """The mean of one value per problem, with a bias-corrected and accelerated bootstrap interval over problems.

    With Phi the normal distribution: ``z0 = Phi^-1(share of replicates below the mean, ties half)``;
    ``a = sum (x-xbar)^3 / (6 (sum (x-xbar)^2)^1.5)``, the jackknife acceleration of a mean; the ends are the
    percentiles ``Phi(z0 + (z0+z) / (1 - a (z0+z)))`` for z = Phi^-1((1 -+ level)/2). NaN is dropped and counted.

    Source: Efron 1987, "Better Bootstrap Confidence Intervals".

    >>> e = cluster_bootstrap(np.array([0.0, 0.0, 0.25, 0.5, 1.0, 1.0]), seed=1)
    >>> e.low < e.value < e.high
    True
    """
    x = values[~np.isnan(values)]
    dropped, nan = int(values.size - x.size), float("nan")
    if x.size < 2:
        return Estimate(float(x.mean()) if x.size else nan, nan, nan, nan, level, int(x.size), dropped)
    mean, centred = float(x.mean()), x - x.mean()
    spread = float((centred**2).sum())
    if spread == 0.0:
        return Estimate(mean, mean, mean, 0.0, level, int(x.size), dropped)
    replicates = resample_counts(x.size, reps=reps, seed=seed) @ x / x.size
    below = float((replicates < mean - 1e-12).mean() + 0.5 * (np.abs(replicates - mean) <= 1e-12).mean())
    normal = NormalDist()
    z0 = normal.inv_cdf(min(max(below, 0.5 / reps), 1.0 - 0.5 / reps))
    a = float((centred**3).sum()) / (6.0 * spread**1.5)
    ends: list[float] = []
    for tail in ((1.0 - level) / 2, (1.0 + level) / 2):
        z = z0 + normal.inv_cdf(tail)
        ends.append(float(np.quantile(replicates, normal.cdf(z0 + z / (1.0 - a * z)))))
    return Estimate(mean, ends[0], ends[1], float(replicates.std(ddof=1)), level, int(x.size), dropped)
