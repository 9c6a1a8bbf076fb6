"""Objective mismatch: along a run, does what is wanted still rise with the reward that is optimised?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from truegain.core.component import component
from truegain.core.errors import DataError
from truegain.methods.evaluation._ranks import chance_below, spearman


@dataclass(frozen=True)
class Link:
    """The link between the proxy and one metric along one run.

    ``whole`` and ``late`` are Spearman's coefficients over all looks and over the last half, ``chance`` how often a
    random order gives as low a ``late``. ``rises`` is that of proxy and time over the last half. ``peak`` is where in
    sqrt(KL) the smoothed metric is largest, ``lost`` how far it has come down since, in the metric's unit.
    """

    metric: str
    run: int
    looks: int
    whole: float
    late: float
    chance: float
    rises: float
    peak: float
    lost: float
    mismatch: bool


@dataclass(frozen=True)
class Links:
    """Every run's link with every metric, and how many of them are mismatches."""

    mismatches: int
    links: tuple[Link, ...]


@component("metric", cite="arXiv:2311.00168")
def objective_links(
    proxy: Float[np.ndarray, "N"],
    kl: Float[np.ndarray, "N"],
    step: Float[np.ndarray, "N"],
    fields: Mapping[str, Any],
    *,
    downstream: tuple[str, ...] = ("gold",),
    alpha: float = 0.05,
    smooth: float = 0.15,
    seed: int = 0,
) -> Links:
    """Spearman's correlation of the proxy with each metric along each run; a mismatch where it turns and proxy rises.

    Rows are looks at runs, in order; a run begins where ``step`` does not grow. Rows without a number for the proxy or
    the metric, such as the training steps of a log, are left out. A link is a mismatch where, over the last half of the
    looks (the larger one), the proxy rises (``rises`` > 0), the correlation is below 0, and so low a one comes by
    chance with probability ``alpha`` at most (one-sided, permutations: exact up to 7 looks, else from draws by
    ``seed``; so fewer than 4 late looks never make one at 0.05). ``alpha=1`` takes every negative correlation, also
    those that noise makes on a plateau. Permutations take the looks for exchangeable: where noise drifts, as when all
    looks are at the same few problems, the chance is greater than it says.

    The peak is the largest value, at a look, of the mean of the metric weighted by a Gaussian in ``d = sqrt(KL)`` whose
    deviation is the share ``smooth`` of the range of d; NaN where no KL is known. All but ``lost`` are the same for
    every increasing transform of the metric or the proxy (``peak`` for affine ones); a constant proxy or metric gives
    NaN and no mismatch.

    Args:
        proxy: the mean reward that is optimised, at each look.
        kl: KL to the start in nats; below 0 (an estimate) counts as 0.
        step: optimisation step.
        fields: the other arrays of the records, by name.
        downstream: names of the metrics, in ``fields``, larger is better.
        alpha: in (0, 1].
        smooth: above 0.

    Raises DataError for a metric that the records lack, sizes that differ, and knobs out of bounds.
    Source: Lambert and Calandra 2023, a position paper that asks for such links; the test is ours.

    >>> proxy, gold = np.arange(10.0), np.array([0.0, 1, 2, 3, 4, 5, 4, 3, 2, 1])
    >>> (found,) = objective_links(proxy, proxy**2, proxy, {"gold": gold}).links
    >>> found.late, round(found.chance, 4), found.mismatch, found.peak
    (-1.0, 0.0083, True, 5.0)
    """
    if not 0 < alpha <= 1 or not smooth > 0 or not proxy.shape == kl.shape == step.shape:
        raise DataError(
            f"objective_links: alpha={alpha} is in (0, 1], smooth={smooth} above 0, and proxy, kl and step as many"
        )
    run = np.concatenate([[0], (np.diff(step) <= 0).cumsum()]).astype(int) if len(step) else np.zeros(0, dtype=int)
    found: list[Link] = []
    for name in downstream:
        if name not in fields or np.shape(fields[name]) != proxy.shape:
            raise DataError(f"objective_links: no {name!r} for each row of the records, which hold {', '.join(fields)}")
        value: np.ndarray = fields[name]
        for number in range(int(run.max()) + 1 if len(run) else 0):
            rows = (run == number) & ~np.isnan(proxy) & ~np.isnan(value)
            if rows.any():
                looks = (proxy[rows], value[rows], np.sqrt(np.clip(kl[rows], 0, None)))
                found.append(_link(name, number, *looks, alpha, smooth, seed))
    return Links(sum(link.mismatch for link in found), tuple(found))


def _link(
    name: str, run: int, p: np.ndarray, g: np.ndarray, d: np.ndarray, alpha: float, smooth: float, seed: int
) -> Link:
    late = slice(len(p) // 2, None)
    rises = spearman(np.arange(len(p), dtype=float)[late], p[late])
    low, chance = spearman(p[late], g[late]), chance_below(p[late], g[late], seed=seed)
    peak, lost = _peak(g, d, smooth)
    mismatch = bool(rises > 0 and low < 0 and chance <= alpha)
    return Link(name, run, len(p), spearman(p, g), low, chance, rises, peak, lost, mismatch)


def _peak(g: np.ndarray, d: np.ndarray, smooth: float) -> tuple[float, float]:
    """Where the smoothed metric is largest, and how far below that it is at the last look."""
    g, d = g[~np.isnan(d)], d[~np.isnan(d)]
    if not len(d):
        return float("nan"), float("nan")
    width = smooth * float(np.ptp(d))
    weight = np.exp(-0.5 * ((d[:, None] - d) / width) ** 2) if width else np.ones((len(d), len(d)))
    mean = weight @ g / weight.sum(axis=1)
    best = int(mean.argmax())
    return float(d[best]), float(mean[best] - mean[-1])
