"""The mean over problems, with an interval that knows that samples of one problem are not independent."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from truegain.core.component import component
from truegain.methods.evaluation._estimate import Estimate
from truegain.methods.evaluation._problem_means import problem_means
from truegain.methods.evaluation._student_t import student_t_quantile


@component("metric", cite="arXiv:2411.00640")
def clustered_mean(x: Float[np.ndarray, "P K"], *, level: float = 0.95) -> Estimate:
    """The mean of per-problem means with a t interval over problems.

    ``m_q`` is the mean of row q; ``value = mean m_q``; ``se = sd(m_q, ddof=1) / sqrt(Q)``; the interval is
    ``value +- t_{Q-1} se``. The naive ``sqrt(p (1-p) / (Q K))`` would treat K samples of one problem as K problems.

    Args:
        x: a value per problem and sample; NaN = abstained. Rows without a valid sample are dropped and counted.
        level: coverage of the interval, in (0, 1).

    With one problem the interval is NaN; with none the value is NaN too.
    Source: Miller 2024, "Adding Error Bars to Evals" (arXiv 2411.00640).

    >>> B = np.array([[1.0, 1, 0, 1], [0, 0, 0, 0], [1, 1, 1, 1], [0, 1, 0, 0]])
    >>> e = clustered_mean(B)
    >>> (e.value, round(e.se, 6))
    (0.5, 0.228218)
    """
    means = problem_means(x)
    kept = means[~np.isnan(means)]
    dropped, q = int(means.size - kept.size), int(kept.size)
    value = float(kept.mean()) if q else float("nan")
    if q < 2:
        nan = float("nan")
        return Estimate(value, nan, nan, nan, level, q, dropped)
    se = float(kept.std(ddof=1) / np.sqrt(q))
    half = student_t_quantile(0.5 + level / 2, df=q - 1) * se
    return Estimate(value, value - half, value + half, se, level, q, dropped)
