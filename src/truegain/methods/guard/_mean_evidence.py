"""Evidence that scores have fallen, when only their means and their number are known."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from truegain.core.component import component
from truegain.core.errors import DataError
from truegain.methods.guard._gap_evidence import check_scores, log_mean

TILTS = np.geomspace(0.05, 4.0, 12)
GRID = np.linspace(0.0, 1.0, 1025)


@component("metric", cite=("Hoeffding 1963", "arXiv:1912.06116"))
def mean_evidence(reference: float, now: float, problems: int, *, margin: float = 0.0) -> float:
    """The logarithm of an e-value against "gold is no more than ``margin`` below the reference", from means alone.

    For scores in [0, 1] with a mean of at most m, ``exp(n (c mean - log(1 - m + m e^c)))`` has mean at most 1 for every
    c > 0 (Hoeffding 1963), and so has its mean over c, g(mean; m). How the two looks hang together is not known, so
    they are joined by the root of the product, which is an e-value whatever joins them (Cauchy and Schwarz):

        log e = min over m of ( log g(reference; m) + log g(1 - now; 1 - m + margin) ) / 2

    The minimum is over all values that the mean at the reference may have; it is bounded from below on a grid of
    cells, so that the result is never too large. It holds for independent problems and any dependence between looks,
    and is conservative: a fall has to be larger than with the scores themselves (`gap_evidence`).

    NaN gives 0: no evidence. ``problems`` is n at both looks. Raises DataError for means outside [0, 1] and n below 1.

    >>> mean_evidence(0.5, 0.5, 100) <= 0
    True
    >>> round(mean_evidence(0.6, 0.3, 200), 2)
    7.16
    """
    if problems < 1:
        raise DataError(f"mean_evidence: {problems} problems; there must be 1 or more")
    before, after = check_scores(np.array([reference, now]))
    if np.isnan(before) or np.isnan(after):
        return 0.0
    return float(least_evidence(no_more(before, problems)[None], float(after), problems, margin)[0])


def no_more(mean: float, problems: int) -> Float[np.ndarray, "K"]:
    """The logarithm of g(mean; m) at every m of the grid: evidence that the mean is more than m. It falls with m."""
    return _tilted(mean, GRID, problems)


def least_evidence(
    before: Float[np.ndarray, "R K"], now: float, problems: int, margin: float
) -> Float[np.ndarray, "R"]:
    """The evidence of `mean_evidence` for references whose `no_more` is given."""
    second = _tilted(1 - now, np.clip(1 - GRID + margin, 0.0, 1.0), problems)
    # The first falls along the grid and the second rises: within a cell they are at least what they are at its ends.
    return (before[:, 1:] + second[:-1]).min(axis=1) / 2


def _tilted(mean: float, most: Float[np.ndarray, "K"], problems: int) -> Float[np.ndarray, "K"]:
    free = [tilt * mean - np.log1p(most * np.expm1(tilt)) for tilt in TILTS]
    return log_mean(problems * np.stack(free))
