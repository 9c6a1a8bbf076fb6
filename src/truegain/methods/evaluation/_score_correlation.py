"""Whether a score of reward models says what becomes of the policies that are optimised against them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from truegain.core.component import component
from truegain.core.errors import DataError
from truegain.methods.evaluation._ranks import chance_below, correlation, spearman


@dataclass(frozen=True)
class ScoreCorrelation:
    """Spearman's and Pearson's coefficient over ``models``; how often chance ranks as well; how many were dropped."""

    spearman: float
    pearson: float
    chance: float
    models: int
    dropped: int


@component("metric", cite=("arXiv:2410.01729", "arXiv:2311.00168"))
def score_correlation(
    benchmark: Float[np.ndarray, "M"], outcome: Float[np.ndarray, "M"], *, seed: int = 0
) -> ScoreCorrelation:
    """Correlation of reward models' ``benchmark`` scores with the ``outcome`` of optimising against each.

    ``benchmark`` may be the accuracy on a held-out set, ``outcome`` the gold score of the best of n, of the best
    checkpoint of a run, or the gold that was lost by its end. ``chance`` is how often a random order correlates as high
    (one-sided, permutations; exact up to 7 models, else from draws by ``seed``). Models with NaN in either are dropped
    and counted. Fewer than 2 models, or no variation: NaN. Raises DataError for sizes that differ.
    Source: Kim et al. 2024, section 5; Lambert and Calandra 2023, who ask for the link between the two.

    >>> score_correlation(np.array([0.6, 0.7, 0.8]), np.array([0.1, 0.3, 0.2])).spearman
    0.5
    """
    if benchmark.shape != outcome.shape or benchmark.ndim != 1:
        raise DataError(f"score_correlation: {benchmark.shape} scores and {outcome.shape} outcomes; give one of each")
    known = ~(np.isnan(benchmark) | np.isnan(outcome))
    x, y, dropped = benchmark[known], outcome[known], int((~known).sum())
    linear = correlation(x, y) if len(x) > 1 else float("nan")
    return ScoreCorrelation(spearman(x, y), linear, chance_below(-x, y, seed=seed), len(x), dropped)
