"""The mean of differences in [-1, 1], with an interval that does not shrink to a point."""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Float

from truegain.core.component import component
from truegain.methods.evaluation._crossed_mean import crossed_mean
from truegain.methods.evaluation._estimate import Estimate
from truegain.methods.evaluation._student_t import student_t_quantile


@component("metric", cite="Agresti and Min 2005")
def difference_mean(x: Float[np.ndarray, "S P"], *, level: float = 0.95) -> Estimate:
    """The mean of paired differences of proportions, runs x problems, each in [-1, 1].

    It is `crossed_mean` with its ends kept within [-1, 1], except where all P differences equal one d, which a t
    interval takes for certainty (two models right on every problem: 0 to 0). There, two problems are added to the P,
    half a problem of +1, half of -1 and one of 0: the centre is ``m = P d / (P+2)``, the variance
    ``v = (P d^2 + 1) / (P+2) - m^2``, and the interval ``m +- t_{P-1} sqrt(v / (P+2))``, widened to hold d.

    Args:
        x: a difference in [-1, 1] per run and problem; NaN as in `crossed_mean`.
        level: coverage of the interval, in (0, 1).

    Source: Agresti and Min 2005, "Simple improved confidence intervals for comparing matched proportions", whose two
    added pairs these are.

    >>> e = difference_mean(np.zeros((1, 400)))
    >>> e.value, round(e.low, 4), round(e.high, 4)
    (0.0, -0.0049, 0.0049)
    """
    e = crossed_mean(x, level=level)
    if math.isnan(e.low):
        return e
    if e.se > 0.0:
        return Estimate(e.value, max(-1.0, e.low), min(1.0, e.high), e.se, level, e.clusters, e.dropped)
    d, p = e.value, e.clusters
    centre = p * d / (p + 2)
    se = math.sqrt(((p * d * d + 1.0) / (p + 2) - centre**2) / (p + 2))
    half = student_t_quantile(0.5 + level / 2, df=p - 1) * se
    low, high = max(-1.0, min(d, centre - half)), min(1.0, max(d, centre + half))
    return Estimate(d, low, high, se, level, p, e.dropped)
