"""The mean over training runs and problems, when every run is tried on the same problems."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from truegain.core.component import component
from truegain.core.errors import DataError
from truegain.methods.evaluation._clustered_mean import clustered_mean
from truegain.methods.evaluation._estimate import Estimate
from truegain.methods.evaluation._student_t import student_t_quantile


@component("metric", cite="Satterthwaite 1946")
def crossed_mean(x: Float[np.ndarray, "S P"], *, level: float = 0.95) -> Estimate:
    """The grand mean of runs x problems with an interval for new runs *and* new problems.

    The model is ``x_sp = mu + run_s + problem_p + rest_sp``, all random. With the mean squares of the two-way table
    ``A = P var_s(mean of run s)``, ``B = S var_p(mean of problem p)`` and ``E`` of the residuals, the variance of the
    mean is ``V = (A + B - E) / (S P)``, never taken below ``max(A, B) / (S P)``; the interval is
    ``mean +- t_df sqrt(V)`` with Satterthwaite's
    ``df = V^2 / ((A/SP)^2/(S-1) + (B/SP)^2/(P-1) + (E/SP)^2/((S-1)(P-1)))``, kept within [1, P - 1]. Few runs that
    differ give few degrees of freedom, hence a wide interval.

    Args:
        x: one number per run and problem, usually a per-problem difference. A column with a NaN is dropped, counted.
        level: coverage of the interval, in (0, 1).

    One run is the clustered mean over problems: it says nothing about other runs. Raises DataError without a run.
    Source: Searle, Casella and McCulloch 1992, "Variance Components", ch. 4; Satterthwaite 1946.

    >>> e = crossed_mean(np.array([[0.1, 0.3], [0.2, 0.4]]))
    >>> round(e.value, 3), e.clusters
    (0.25, 2)
    """
    if x.ndim != 2 or x.shape[0] == 0:
        raise DataError(f"crossed_mean: expected runs x problems, got shape {x.shape}")
    if x.shape[0] == 1:
        return clustered_mean(x.T, level=level)
    kept = x[:, ~np.isnan(x).any(axis=0)]
    s, p = kept.shape
    dropped, nan = int(x.shape[1] - p), float("nan")
    if p < 2:
        return Estimate(float(kept.mean()) if p else nan, nan, nan, nan, level, p, dropped)
    mean, run, problem = float(kept.mean()), kept.mean(axis=1), kept.mean(axis=0)
    rest = kept - run[:, None] - problem[None, :] + mean
    parts = np.array([p * run.var(ddof=1), s * problem.var(ddof=1), (rest**2).sum() / ((s - 1) * (p - 1))]) / (s * p)
    variance = max(float(parts[0] + parts[1] - parts[2]), float(parts[0]), float(parts[1]))
    if variance <= 0.0:
        return Estimate(mean, mean, mean, 0.0, level, p, dropped)
    weights = np.array([s - 1, p - 1, (s - 1) * (p - 1)])
    df = min(max(variance**2 / float((parts**2 / weights).sum()), 1.0), float(p - 1))
    half = student_t_quantile(0.5 + level / 2, df=df) * float(np.sqrt(variance))
    return Estimate(mean, mean - half, mean + half, float(np.sqrt(variance)), level, p, dropped)
