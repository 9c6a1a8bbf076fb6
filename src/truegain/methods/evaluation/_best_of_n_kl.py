"""How far best-of-n is from the policy that it draws from."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int

from truegain.core.component import component
from truegain.core.errors import DataError


@component("metric", cite=("arXiv:2009.01325", "arXiv:2210.10760"))
def best_of_n_kl(n: Int[np.ndarray, "K"]) -> Float[np.ndarray, "K"]:
    """KL(best of n || policy) in nats: ``log n - (n - 1) / n``; exact for scores without ties, else an upper bound.

    Over-optimisation is drawn against its root. ``n`` holds whole numbers from 1. Raises DataError for less than 1.
    Source: Stiennon et al. 2020, appendix G.3; Gao et al. 2022. An upper bound with ties: Beirami et al. 2024.

    >>> best_of_n_kl(np.array([1, 4, 256])).round(5).tolist()
    [0.0, 0.63629, 4.54908]
    """
    if bool((n < 1).any()):
        raise DataError("best_of_n_kl: n is 1 or more")
    return np.log(n) - (n - 1) / n
