"""The mean of scores in [0, 1], with an interval that stays there."""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Float

from truegain.core.component import component
from truegain.core.errors import DataError
from truegain.methods.evaluation._crossed_mean import crossed_mean
from truegain.methods.evaluation._estimate import Estimate
from truegain.methods.evaluation._student_t import student_t_quantile


@component("metric", cite="Wilson 1927")
def proportion_mean(x: Float[np.ndarray, "S P"], *, level: float = 0.95) -> Estimate:
    """The mean of runs x problems scores in [0, 1] with Wilson's interval, problems and runs counted as clusters.

    A t interval leaves [0, 1] near its ends and shrinks to a point at 0 % or 100 %. With `crossed_mean`'s standard
    error se and quantile t, the effective sample size is ``n = p (1-p) / se^2``, and the interval
    ``(p + t^2/2n +- t sqrt(p (1-p)/n + t^2/4n^2)) / (1 + t^2/n)``. Where the table shows no variance, n is the number
    of problems: at p = 1 that is ``P / (P + t^2)`` to 1.

    Args:
        x: a score in [0, 1] per run and problem, such as accuracy or pass@k; NaN as in `crossed_mean`.
        level: coverage of the interval, in (0, 1).

    Raises DataError for a score outside [0, 1] and without a run.
    Source: Wilson 1927; the effective sample size is Korn and Graham 1998, "Confidence Intervals for Proportions With
    Small Expected Number of Positive Counts Estimated From Survey Data".

    >>> e = proportion_mean(np.ones((1, 400)))
    >>> e.value, round(e.low, 4), e.high
    (1.0, 0.9904, 1.0)
    """
    if bool(((x < 0.0) | (x > 1.0)).any()):
        raise DataError("proportion_mean: a score lies outside [0, 1]; use crossed_mean for what is no proportion")
    e = crossed_mean(x, level=level)
    if math.isnan(e.low):
        return e
    p, none_seen = e.value, e.se <= 0.0
    t = student_t_quantile(0.5 + level / 2, df=e.clusters - 1) if none_seen else (e.high - e.value) / e.se
    n = float(e.clusters) if none_seen else max(p * (1.0 - p), 0.0) / e.se**2
    if n <= 0.0:
        return Estimate(p, 0.0, 1.0, e.se, level, e.clusters, e.dropped)
    centre, scale = p + t * t / (2 * n), 1.0 + t * t / n
    half = t * math.sqrt(p * (1.0 - p) / n + t * t / (4 * n * n))
    low, high = max(0.0, min(p, (centre - half) / scale)), min(1.0, max(p, (centre + half) / scale))
    return Estimate(p, low, high, e.se, level, e.clusters, e.dropped)
