"""The KL of best-of-n, simulated on a thousand distinct rewards."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from truegain.claims.claim import Claim
from truegain.methods.evaluation import best_of_n_kl

SUPPORT, DRAWS, NS = 1000, 4_000_000, (2, 4, 16, 64)


def _one_seed(seed: int) -> Mapping[str, float]:
    rng = np.random.default_rng(seed)
    reward = rng.permutation(SUPPORT)
    found: dict[str, float] = {}
    for n in NS:
        best = np.full(DRAWS, -1)
        for _ in range(n):
            best = np.maximum(best, reward[rng.integers(SUPPORT, size=DRAWS)])
        share = np.bincount(best, minlength=SUPPORT) / DRAWS
        seen = share > 0
        found[f"n={n}"] = float((share[seen] * np.log(share[seen] * SUPPORT)).sum())
    return found


def _effect(arms: Mapping[str, float]) -> float:
    """The relative error that is largest in size, with its sign."""
    formula = best_of_n_kl(np.array(NS))
    return max((arms[f"n={n}"] / float(kl) - 1 for n, kl in zip(NS, formula, strict=True)), key=abs)


CLAIM = Claim(
    name="bon-kl",
    system="bon-kl",
    states="The KL of simulated best-of-n, n = 2, 4, 16 and 64, from a uniform policy over 1000 distinct rewards is "
    "within 2 % of log n - (n - 1) / n.",
    unit="relative error, the largest over n",
    one_seed=_one_seed,
    effect=_effect,
    margin=0.02,
)
