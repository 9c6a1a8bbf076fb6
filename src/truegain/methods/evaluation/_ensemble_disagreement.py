"""Underspecification: how far reward models that agree on ordinary completions part on optimised ones."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from truegain.core.component import component
from truegain.core.errors import DataError
from truegain.methods.evaluation._ranks import correlation
from truegain.methods.evaluation._ranks import ranks as mean_ranks


@dataclass(frozen=True)
class Disagreement:
    """Means over pairs of members: rank correlation, and absolute difference in the base policy's deviations."""

    rank_correlation: float
    difference: float


@component("metric", cite="arXiv:2312.09244")
def ensemble_disagreement(score: Float[np.ndarray, "N M"], base: Float[np.ndarray, "R M"]) -> Disagreement:
    """How much M reward models disagree on N completions, each put on the scale of R completions of the base policy.

    Per pair of members: Spearman's correlation of their scores (ties get their mean rank), and ``mean |z_i - z_j|``
    with ``z`` a member's score less its mean over ``base`` in units of its deviation there. On optimised completions
    the first falls and the second rises as the members' errors are found. A member without spread correlates with
    none: NaN. Raises DataError for fewer than two members or completions, or scores that are not finite.
    Source: Eisenstein et al. 2023, section 5.

    >>> base = np.array([[-1.0, -2.0], [1.0, 2.0]])
    >>> ensemble_disagreement(np.array([[1.0, 2.0], [2.0, 4.0], [3.0, 6.0]]), base)
    Disagreement(rank_correlation=1.0, difference=0.0)
    """
    members = score.shape[1]
    if members < 2 or base.shape[1] != members or min(len(score), len(base)) < 2:
        raise DataError(
            f"ensemble_disagreement: scores {score.shape} on base {base.shape}; at least 2 members and rows"
        )
    if not (np.isfinite(score).all() and np.isfinite(base).all()):
        raise DataError("ensemble_disagreement: a score is not finite")
    deviation = base.std(axis=0)
    z = (score - base.mean(axis=0)) / np.where(deviation > 0, deviation, 1.0)
    ranks = np.stack([mean_ranks(column) for column in score.T])
    pairs = [(i, j) for i in range(members) for j in range(i)]
    apart = float(np.mean([np.abs(z[:, i] - z[:, j]).mean() for i, j in pairs]))
    return Disagreement(float(np.mean([correlation(ranks[i], ranks[j]) for i, j in pairs])), apart)
