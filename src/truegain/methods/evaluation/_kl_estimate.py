"""KL(policy || reference) of whole sequences from log-probs of sampled tokens."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from truegain.core.component import component
from truegain.core.errors import DataError


@dataclass(frozen=True)
class SequenceKL:
    """Unbiased estimates per sequence in nats: ``k1[N]``, which may be negative, and ``k3[N]``, which may not."""

    k1: Float[np.ndarray, "N"]
    k3: Float[np.ndarray, "N"]


@component("metric", cite="Schulman 2020")
def kl_estimate(
    logp: Float[np.ndarray, "N T"], ref_logp: Float[np.ndarray, "N T"], mask: Bool[np.ndarray, "N T"]
) -> SequenceKL:
    """Two estimates of each sequence's KL to the reference, summed over the tokens that the policy chose.

    With ``d = logp - ref_logp`` of a token drawn from the policy at temperature 1: ``k1 = sum d`` and
    ``k3 = sum exp(-d) - 1 + d``. Given the prefix each term of either has the token's KL as expectation, so both sums
    are unbiased for the KL of the sequence; their mean over sequences, clustered by problem, is the estimate.

    Raises DataError when the shapes differ. Source: Schulman 2020, "Approximating KL Divergence".

    >>> kl = kl_estimate(np.array([[0.0, -1.0]]), np.array([[-1.0, -1.0]]), np.array([[True, True]]))
    >>> kl.k1.tolist(), kl.k3.round(6).tolist()
    ([1.0], [0.367879])
    """
    if not logp.shape == ref_logp.shape == mask.shape:
        raise DataError(f"kl_estimate: shapes differ: {logp.shape}, {ref_logp.shape}, {mask.shape}")
    d = np.where(mask, logp - ref_logp, 0.0)
    return SequenceKL(d.sum(axis=1), (np.expm1(-d) + d).sum(axis=1))
