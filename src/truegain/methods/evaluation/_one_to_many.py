"""One right answer against many wrong ones: how robust a reward model is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from math import comb
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from truegain.core.component import component
from truegain.core.errors import DataError
from truegain.methods.evaluation._clustered_mean import clustered_mean
from truegain.methods.evaluation._estimate import Estimate
from truegain.methods.evaluation._proportion_mean import proportion_mean


@dataclass(frozen=True)
class OneToMany:
    """Share of problems won, with ties counted as lost and as won, mean reciprocal rank; and what chance gives."""

    accuracy: Estimate
    with_ties: Estimate
    reciprocal_rank: Estimate
    chance_accuracy: float
    chance_reciprocal_rank: float


@component("metric", cite=("arXiv:2410.01729", "github.com/kimsh0507/RewardMATH_official"))
def one_to_many(
    score: Float[np.ndarray, "N"],
    correct: Float[np.ndarray, "N"],
    problem: Int[np.ndarray, "N"],
    *,
    level: float = 0.95,
) -> OneToMany:
    """How often the right completion of a problem scores above all its wrong ones, and one over its rank.

    With score c of the right completion and w_j of the wrong: accuracy ``1[c > max_j w_j]``, rank
    ``1 + #{j: w_j >= c}``, so that ties count against it; ``with_ties`` is ``1[c >= max_j w_j]``. Of several right
    ones, the lowest must be above all, and the highest has the rank. ``correct`` above 0.5 is right.

    NaN (the model abstained) ranks below every number, and NaN among themselves tie. Items with NaN in ``correct`` are
    left out; problems without a right or without a wrong completion are dropped and counted. All numbers are the same
    for every increasing transform of the scores of a problem. Intervals are over problems. ``chance_accuracy`` and
    ``chance_reciprocal_rank`` are what scores drawn at random get: 0.1 and 0.293 for one against nine.

    The verdicts of a judge of pairs are scores too: 0.5 for the right completion, 0 for each wrong one that it beat and
    1 for each that beat it. With the benchmark's 483 problems, take nine wrong ones in the style of the right one: a
    difference in style lets a model tell them apart without knowing what is right.
    Source: Kim et al. 2024 (RewardMATH), `src/evaluation/eval.py`.

    >>> score = np.array([2.0, 1.0, 2.5, 0.3, -1.0, 1.5, 0.0, 0.2, 0.4, 2.2])
    >>> found = one_to_many(score, np.array([1.0] + [0.0] * 9), np.zeros(10, dtype=int))
    >>> found.accuracy.value, round(found.reciprocal_rank.value, 5)
    (0.0, 0.33333)
    """
    if not score.shape == correct.shape == problem.shape:
        raise DataError(f"one_to_many: {score.shape} scores, {correct.shape} verdicts, {problem.shape} problems")
    known = ~np.isnan(correct)
    score, right, problem = np.where(np.isnan(score), -np.inf, score)[known], correct[known] > 0.5, problem[known]
    order = np.argsort(problem, kind="stable")
    _, begins = np.unique(problem[order], return_index=True)
    found = np.full((len(begins), 5), np.nan)
    for p, rows in enumerate(np.split(order, begins[1:])[: len(begins)]):
        good, bad = (score[rows[side]] for side in (right[rows], ~right[rows]))
        if len(good) and len(bad):
            rank = 1 + int((bad >= good.max()).sum())
            won, tied = good.min() > bad.max(), good.min() >= bad.max()
            found[p] = (won, tied, 1 / rank, *_chance(len(good), len(bad)))
    accuracy, ties = (proportion_mean(found[None, :, k], level=level) for k in (0, 1))
    chances = found[~np.isnan(found[:, 0])][:, 3:]
    means = chances.mean(axis=0) if len(chances) else np.full(2, np.nan)
    return OneToMany(accuracy, ties, clustered_mean(found[:, 2:3], level=level), float(means[0]), float(means[1]))


def _chance(good: int, bad: int) -> tuple[float, float]:
    """Accuracy and mean reciprocal rank of a random order without ties."""
    total = good + bad
    first = [comb(total - rank, good - 1) / comb(total, good) for rank in range(1, bad + 2)]
    return 1 / comb(total, good), sum(p / rank for rank, p in enumerate(first, 1))


def one_to_many_study(*, scores: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """`one_to_many` of each reward model, and of the mean of their scores, over scored completions.

    A row of ``scores`` has ``problem``, ``correct`` and ``score``, a number per model. Returns a record by model.
    """
    _, problem = np.unique([row["problem"] for row in scores], return_inverse=True)
    correct = np.array([row["correct"] for row in scores], dtype=float)
    table = np.array([row["score"] for row in scores], dtype=float)
    columns = {f"member-{m}": column for m, column in enumerate(table.T)}
    columns |= {"mean": table.mean(axis=1)} if len(columns) > 1 else {}
    return {name: asdict(one_to_many(column, correct, problem)) for name, column in columns.items()}
