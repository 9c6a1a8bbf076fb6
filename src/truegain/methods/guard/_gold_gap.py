"""The over-optimisation guard: has gold fallen below what it was, while the proxy rose? Asked again at every look."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Num

from truegain.core.component import component
from truegain.core.errors import DataError
from truegain.methods.guard._gap_evidence import check_scores, log_mean, log_wealth
from truegain.methods.guard._spent_level import spent_level

Evidence = Callable[[float], float]

WINDOWS = (1, 2, 4)
"""Looks that are taken together: their mean is less noisy, and a fall that lasts is seen sooner."""


@dataclass(frozen=True)
class GapLook:
    """What the guard says of one look.

    ``gold`` and ``proxy`` are the means of the look (NaN where unknown), ``best`` the step of the look with the most
    gold so far (this one included, the earliest of equals) and ``gap`` how far gold lies below it, 0 or more.
    ``evidence`` is the logarithm of the e-value that gold has fallen, ``needed`` that of what makes an alarm. ``low``
    is the lower end of the confidence sequence: gold has fallen by at least this much, 0 where it is not known to have
    fallen. ``kind`` of an alarm is ``divergence`` where the proxy is no lower than it was at ``best``,
    ``fall`` where it is lower and ``unknown`` where one of the two is not known; it is empty without an alarm.
    """

    step: int
    gold: float
    proxy: float
    best: int
    gap: float
    evidence: float
    needed: float
    low: float
    alarm: bool
    kind: str


@dataclass(frozen=True)
class GoldGap:
    """All looks of a run, the step of its first alarm (None without one) and of the look with the most gold."""

    first: int | None
    best: int | None
    looks: tuple[GapLook, ...]


def summed_up(looks: Sequence[GapLook]) -> GoldGap:
    """What the looks say together."""
    first = next((look.step for look in looks if look.alarm), None)
    return GoldGap(first, looks[-1].best if looks else None, tuple(looks))


@component("metric", cite=("arXiv:2010.09686", "arXiv:1912.06116", "truegain"))
def gold_gap(
    gold: Float[np.ndarray, "N"],
    proxy: Float[np.ndarray, "N"],
    step: Num[np.ndarray, "N"],
    problem: Num[np.ndarray, "N"],
    *,
    level: float = 0.05,
    horizon: int = 20,
    margin: float = 0.0,
) -> GoldGap:
    """Judge every look of a run at the same problems, one row per problem and look; see `GapLook` for what is said.

    Null hypothesis of look t: over the last w looks the policy earned, on average over problems, no less than
    ``margin`` below *any* earlier w looks in a row, for w = 1, 2 and 4. It holds for every run whose gold has never
    fallen. As the reference is chosen among the earlier looks by what they scored, all of them are references: with
    K(w, r, t) the e-value of `gap_evidence` of the means of w looks that end at r against those that end at t,

        E_t = mean over w of mean over r <= t - w of K(w, r, t),      alarm at t where E_t >= 1 / level_t,

    where a w that does not fit yet counts as 1, and level_t is `spent_level`'s share of ``level``. E_t has mean at most
    1 under the null hypothesis of look t (a mean of e-values is one, whatever their dependence), so P(false alarm at t)
    <= level_t by Markov's inequality, and the probability that a run of any length has *any* false alarm is at most the
    sum, ``level``. The union over looks asks nothing of how looks hang together: they may be at the same problems, and
    are. It does ask that until its first alarm the run does not depend on the looks: they are not trained on, nor used
    to tune it. Hence alarms after one that was acted on are not covered.

    Inverting the test in ``margin`` gives ``low``, a confidence sequence: with probability 1 - level, at all looks at
    once, gold over the last 1, 2 or 4 looks lies at least ``low`` below what it was over as many earlier ones. It is an
    audit of what has happened: it says nothing of what will.

    Rows with NaN in ``gold`` (the scorer abstained) leave their problem out of that look's pairs. Abstentions that
    depend on how good the answer is bias it. A look that has no score at all is no evidence, whatever the looks before
    it were, and raises no alarm. Several rows of one problem at a look are averaged.
    Raises DataError for scores outside [0, 1] and columns of different length.
    Source: Waudby-Smith and Ramdas 2024; Vovk and Wang 2021; the composition is ours.

    >>> step = np.repeat([0.0, 10.0, 20.0], 60)
    >>> gold = np.concatenate([np.tile([0.0, 1.0], 30), np.ones(60), np.zeros(60)])
    >>> found = gold_gap(gold, step, step, np.tile(np.arange(60.0), 3))
    >>> [(look.step, look.best, look.alarm, look.kind) for look in found.looks]
    [(0, 0, False, ''), (10, 10, False, ''), (20, 10, True, 'divergence')]
    """
    if not gold.shape == proxy.shape == step.shape == problem.shape:
        raise DataError("gold_gap: gold, proxy, step and problem must have one value per row")
    steps, at = np.unique(step, return_inverse=True)
    table = _table(gold, at, problem, len(steps))
    proxies = [_known_mean(proxy[at == n]) for n in range(len(steps))]
    looks: list[GapLook] = []
    for n in range(len(steps)):
        looks.append(
            judge_look(
                looks, int(steps[n]), table[n], proxies[n], table[:n], level=level, horizon=horizon, margin=margin
            )
        )
    return summed_up(looks)


def judge_look(
    earlier: Sequence[GapLook],
    step: int,
    gold: Float[np.ndarray, "P"],
    proxy: float,
    before: Float[np.ndarray, "R P"],
    *,
    level: float = 0.05,
    horizon: int = 20,
    margin: float = 0.0,
    told: float | None = None,
    spent: int = 0,
) -> GapLook:
    """Judge one more look, with a score per problem; ``before`` are the scores of the looks that it is held against.

    Those are all earlier ones, or, after an alarm that somebody answered by going on, those since then. ``told`` is the
    mean to report and to choose the best look by, where that is not the scores' own (a hold-out that is to be reused).
    ``spent`` counts looks that used their share of the level and are not among the earlier ones, as they were undone.
    """
    rows = check_scores(np.concatenate([before, gold[None]]))
    differences = [_window_differences(rows, width) for width in WINDOWS]

    def evidence(least: float) -> float:
        return joined([joined(log_wealth(one, least)) if len(one) else 0.0 for one in differences])

    own = _known_mean(gold)
    references = 0 if math.isnan(own) else len(before)
    return judge(
        earlier, step, own if told is None else told, proxy, references, evidence,
        level=level, horizon=horizon, margin=margin, spent=spent,
    )  # fmt: skip


def judge(
    earlier: Sequence[GapLook],
    step: int,
    gold: float,
    proxy: float,
    references: int,
    evidence: Evidence,
    *,
    level: float,
    horizon: int,
    margin: float,
    spent: int = 0,
) -> GapLook:
    """The verdict on a look from the evidence, a logarithm, that gold has fallen by more than a margin.

    With no ``references`` there is nothing to hold it against, and no alarm.
    """
    known = [look for look in earlier if not math.isnan(look.gold)]
    best, most, told = step, gold, proxy
    for look in reversed(known):
        if math.isnan(most) or look.gold >= most:
            best, most, told = look.step, look.gold, look.proxy
    needed = -math.log(spent_level(max(len(earlier) + spent, 1), level=level, horizon=horizon))
    gap = math.nan if math.isnan(gold) else most - gold
    if not references:
        return GapLook(step, gold, proxy, best, gap, 0.0, needed, 0.0, False, "")
    found = evidence(margin)
    alarm = found >= needed
    kind = _kind(proxy, told) if alarm else ""
    return GapLook(step, gold, proxy, best, gap, found, needed, _low(evidence, needed), alarm, kind)


def _kind(proxy: float, then: float) -> str:
    """What an alarm is called, by the proxy now and at the best look."""
    if math.isnan(proxy) or math.isnan(then):
        return "unknown"
    return "divergence" if proxy >= then else "fall"


def _low(evidence: Evidence, needed: float) -> float:
    """The largest fall, to a thousandth, that the evidence excludes to be all; it weakens as the margin grows."""
    if evidence(0.0) < needed:
        return 0.0
    low, high = 0.0, 1.0
    while high - low > 0.001:
        middle = (low + high) / 2
        low, high = (middle, high) if evidence(middle) >= needed else (low, middle)
    return low


def joined(logs: Sequence[float] | Float[np.ndarray, "R"]) -> float:
    """The logarithm of the mean of e-values whose logarithms are given."""
    return float(log_mean(np.asarray(logs, dtype=np.float64)[:, None])[0])


def _window_differences(rows: Float[np.ndarray, "T P"], width: int) -> Float[np.ndarray, "R P"]:
    """Each problem's mean over every earlier ``width`` looks, less that over the last ``width``; no row if too few."""
    known = ~np.isnan(rows)
    first = np.zeros((1, rows.shape[1]))
    sums, counts = (np.concatenate([first, one.cumsum(axis=0)]) for one in (np.where(known, rows, 0.0), 1.0 * known))
    sums, counts = sums[width:] - sums[:-width], counts[width:] - counts[:-width]
    means = np.divide(sums, counts, out=np.full_like(sums, np.nan), where=counts > 0)
    return means[: max(0, len(rows) - 2 * width + 1)] - means[-1:]


def _table(
    gold: Float[np.ndarray, "N"], at: np.ndarray, problem: Num[np.ndarray, "N"], looks: int
) -> Float[np.ndarray, "T P"]:
    """Scores by look and problem, NaN where there is none."""
    names, column = np.unique(problem, return_inverse=True)
    known = ~np.isnan(gold)
    sums, counts = np.zeros((looks, len(names))), np.zeros((looks, len(names)))
    np.add.at(sums, (at[known], column[known]), gold[known])
    np.add.at(counts, (at[known], column[known]), 1.0)
    return np.divide(sums, counts, out=np.full_like(sums, np.nan), where=counts > 0)


def _known_mean(values: np.ndarray) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else math.nan
