"""How much better one reward model orders pairs than another."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from truegain.core.component import component
from truegain.core.errors import DataError
from truegain.methods.evaluation._estimate import Estimate
from truegain.methods.evaluation._paired_difference import paired_difference
from truegain.methods.evaluation._proportion_mean import proportion_mean


@component("metric", cite="arXiv:2409.03650")
def preference_gap(
    exrm_margin: Float[np.ndarray, "N"], dporm_margin: Float[np.ndarray, "N"], *, level: float = 0.95
) -> tuple[Estimate, dict[str, Estimate]]:
    """Accuracy of an explicit reward model less that of an implicit one on the same N pairs, paired by pair.

    A margin is the reward of the chosen completion less that of the rejected one; ``acc = mean 1[margin > 0]``, ties
    half, so that scale and level of the rewards play no part. The gap is the mean difference with a t interval over
    pairs. Beside it stand ``exrm_acc`` and ``dporm_acc`` with Wilson's intervals.

    A pair with a NaN in either is dropped from all three and counted. Raises DataError when the lengths differ, or
    there are no pairs. ``level`` is the coverage of the intervals, in (0, 1).

    >>> gap, each = preference_gap(np.array([0.4, 0.1, -0.2, 0.3]), np.array([0.2, -0.1, -0.3, 0.1]))
    >>> gap.value, each["exrm_acc"].value, each["dporm_acc"].value
    (0.25, 0.75, 0.5)
    """
    if exrm_margin.shape != dporm_margin.shape or not exrm_margin.size:
        raise DataError(
            f"preference_gap: {exrm_margin.size} and {dporm_margin.size} margins; give both of the same pairs"
        )
    exrm, dporm = (_right(margin) for margin in (exrm_margin, dporm_margin))
    lost = np.isnan(exrm) | np.isnan(dporm)
    exrm, dporm = np.where(lost, np.nan, exrm), np.where(lost, np.nan, dporm)
    gap = paired_difference(dporm[:, None], exrm[:, None], level=level)
    each = {
        "exrm_acc": proportion_mean(exrm[None], level=level),
        "dporm_acc": proportion_mean(dporm[None], level=level),
    }
    return gap, each


def _right(margin: Float[np.ndarray, "N"]) -> np.ndarray:
    return np.where(np.isnan(margin), np.nan, (margin > 0) + 0.5 * (margin == 0))
