"""The guard on a log that holds means alone."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from truegain.core.component import component
from truegain.core.errors import DataError
from truegain.methods.guard._gap_evidence import check_scores
from truegain.methods.guard._gold_gap import GapLook, GoldGap, joined, judge, summed_up
from truegain.methods.guard._mean_evidence import least_evidence, no_more


@component("metric", cite=("Hoeffding 1963", "arXiv:1912.06116", "truegain"))
def gold_gap_of_means(
    gold: Float[np.ndarray, "T"],
    proxy: Float[np.ndarray, "T"],
    step: Float[np.ndarray, "T"],
    *,
    problems: int = 128,
    level: float = 0.05,
    horizon: int = 20,
    margin: float = 0.0,
) -> GoldGap:
    """`gold_gap` where of each look only the mean over ``problems`` independent problems is known.

    The same level; `mean_evidence` takes the place of `gap_evidence`, look by look (w = 1: a bound that knows of no
    variance gains nothing from means over several), so a fall has to be larger to be seen. ``problems`` must be stated
    truly: too large a number voids the level. Looks without a number for gold are left out, so of a whole log only the
    looks count. Raises DataError for lengths that differ and for no problems.

    >>> step = np.arange(4.0)
    >>> found = gold_gap_of_means(np.array([0.3, 0.6, 0.55, 0.1]), step, step, problems=200)
    >>> found.first, found.best, found.looks[-1].kind
    (3, 1, 'divergence')
    """
    if not gold.shape == proxy.shape == step.shape or problems < 1:
        raise DataError("gold_gap_of_means: gold, proxy and step have one value per look; problems is 1 or more")
    known = ~np.isnan(gold)
    gold, proxy, step = gold[known], proxy[known], step[known]
    before = np.stack([no_more(float(one), problems) for one in check_scores(gold)]) if len(gold) else gold[:, None]
    looks: list[GapLook] = []
    for n in range(len(gold)):

        def evidence(least: float, n: int = n) -> float:
            return joined(least_evidence(before[:n], float(gold[n]), problems, least))

        looks.append(
            judge(
                looks, int(step[n]), float(gold[n]), float(proxy[n]), n, evidence,
                level=level, horizon=horizon, margin=margin,
            )
        )  # fmt: skip
    return summed_up(looks)
