"""The law of best-of-n on a proxy with heavy-tailed errors: gold rises, falls, and two numbers say where."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from truegain.claims.claim import Claim
from truegain.methods.evaluation import best_of_n, best_of_n_kl, overoptimization_bon

PROMPTS, ANSWERS, NOISE, TAIL = 100, 1000, 0.8, 2.5
NS = tuple(2**i for i in range(10))


def _one_seed(seed: int) -> Mapping[str, float]:
    rng = np.random.default_rng(seed)
    gold = rng.normal(size=(PROMPTS, ANSWERS))
    proxy = gold + NOISE * rng.standard_t(TAIL, size=gold.shape)
    distance = np.sqrt(best_of_n_kl(np.array(NS)))
    curve = np.array([best_of_n(proxy, gold, n=n).mean() for n in NS])
    law = overoptimization_bon(distance, curve - curve[0])
    return {
        "R^2": law.r2,
        "peak of the law": law.peak,
        "peak of gold": float(distance[curve.argmax()]),
        "gold at its peak": float(curve.max()),
        "gold at n=512": float(curve[-1]),
    }


CLAIM = Claim(
    name="gao-overoptimization-fits",
    system="gao-overoptimization-fits",
    states="Gold of best-of-n over 100 prompts of 1000 answers, chosen by gold plus heavy-tailed noise, rises and "
    "falls with sqrt(KL), and d (a - b d) explains more than 90 % of it.",
    unit="R^2 of the law",
    one_seed=_one_seed,
    effect=lambda arms: arms["R^2"],
    threshold=0.9,
    seeds=10,
)
