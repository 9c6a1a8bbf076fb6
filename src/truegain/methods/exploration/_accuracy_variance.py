"""Which examples a policy learned from: those whose accuracy moved most."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Num

from truegain.core.component import component
from truegain.core.errors import DataError


@component("metric", cite=("arXiv:2504.20571", "github.com/ypwang61/One-Shot-RLVR"))
def accuracy_variance(history: Num[np.ndarray, "P E"], *, ddof: int = 0) -> Float[np.ndarray, "P"]:
    """How much each example's training accuracy varied over the epochs of a run: the larger, the better to train on.

    ``v_i = 1/(E - ddof) * sum_e (a_ie - mean_e a_ie)^2``; ``np.argsort(-v, kind="stable")`` is the ranking.

    Args:
        history: accuracy of example i in epoch e, in [0, 1], or NaN where it was not seen: that epoch is left out.
        ddof: 0 is the population's variance, 1 the sample's; over equal numbers of epochs both rank alike.

    An example that was never or always solved gets 0; one seen in no more than ``ddof`` epochs gets 0 too.
    Raises DataError for accuracies outside [0, 1]. Source: Wang et al. 2025, historical variance score.

    >>> accuracy_variance(np.array([[0, 1, 0, 1, 0.5], [0.5, 0.5, 0.5, 0.5, 0.5], [0, 0, 0, 0.25, 0.5]])).round(4)
    array([0.2 , 0.  , 0.04])
    """
    values = np.asarray(history, dtype=np.float64)
    seen = ~np.isnan(values)
    if ((values < 0) | (values > 1)).any():
        raise DataError("accuracy_variance: accuracies must lie in [0, 1]")
    count = seen.sum(axis=1)
    mean = np.where(seen, values, 0.0).sum(axis=1) / np.maximum(count, 1)
    moved = np.where(seen, values - mean[:, None], 0.0) ** 2
    return np.where(count > ddof, moved.sum(axis=1) / np.maximum(count - ddof, 1), 0.0)
