"""The difference of two models on the same problems."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from truegain.core.component import component
from truegain.core.errors import DataError
from truegain.methods.evaluation._clustered_mean import clustered_mean
from truegain.methods.evaluation._estimate import Estimate
from truegain.methods.evaluation._problem_means import problem_means


@component("metric", cite="arXiv:2411.00640")
def paired_difference(a: Float[np.ndarray, "Pa Ka"], b: Float[np.ndarray, "Pb Kb"], *, level: float = 0.95) -> Estimate:
    """The mean over problems of ``mean(b_q) - mean(a_q)``, with a t interval over problems.

    ``d_q = m^b_q - m^a_q``; ``se = sd(d, ddof=1) / sqrt(Q)``; the interval is ``mean d +- t_{Q-1} se``. Pairing takes
    the spread of difficulty out, clustering counts problems and not samples.

    Args:
        a: the model compared against, a value per problem and sample; NaN = abstained.
        b: the model of interest, same problems in the same order; the number of samples may differ.
        level: coverage of the interval, in (0, 1).

    A problem with no valid sample in either arm is dropped and counted. Raises DataError when the rows differ.
    Source: Miller 2024, "Adding Error Bars to Evals" (arXiv 2411.00640), section 3.

    >>> A = np.array([[1.0, 0, 0, 1], [0, 0, 0, 0], [1, 1, 1, 1], [0, 0, 0, 0]])
    >>> B = np.array([[1.0, 1, 0, 1], [0, 0, 0, 0], [1, 1, 1, 1], [0, 1, 0, 0]])
    >>> e = paired_difference(A, B)
    >>> (e.value, round(e.se, 6))
    (0.125, 0.072169)
    """
    if a.shape[0] != b.shape[0]:
        raise DataError(f"paired_difference: {a.shape[0]} problems against {b.shape[0]}; give the same problems twice")
    return clustered_mean((problem_means(b) - problem_means(a))[:, None], level=level)
