"""Unbiased pass^k."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Num

from truegain.core.component import component
from truegain.methods.evaluation._pass_at_k import pass_at_k


@component("metric", cite="arXiv:2406.12045")
def pass_hat_k(n: Num[np.ndarray, "P"], c: Num[np.ndarray, "P"], *, k: int = 1) -> Float[np.ndarray, "P"]:
    """The probability that all of k fresh samples are right, without bias: ``C(c, k) / C(n, k)``, 0 when c < k.

    All right is none wrong, so it is ``1 - pass@k`` of the wrong samples. Arguments and errors as `pass_at_k`.

    >>> pass_hat_k(np.array([8]), np.array([3]), k=3).round(6).tolist()
    [0.017857]
    """
    return 1.0 - pass_at_k(n, np.asarray(n) - np.asarray(c), k=k)
