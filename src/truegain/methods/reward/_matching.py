"""Matching recorded tool calls with the calls of a reference trace: similarity, assignments, optimal transport."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.float64]


def similarity(called: Mapping[str, Any], gold: Mapping[str, Any]) -> float:
    """0 for another name, else ``(1 + Jaccard(parameter names) + equal values) / (2 + parameters of gold)``.

    Calls are ``{"name": ..., "parameters": {...}}``; case does not matter in names of tools. In [0, 1]; 1 exactly for
    a call with all of gold's parameters and no others.

    >>> similarity({"name": "add", "parameters": {"a": 1, "b": 2}}, {"name": "add", "parameters": {"a": 1, "b": 3}})
    0.75
    """
    if str(called.get("name")).lower() != str(gold.get("name")).lower():
        return 0.0
    own, wanted = _parameters(called), _parameters(gold)
    union = len(own.keys() | wanted.keys())
    names = len(own.keys() & wanted.keys()) / union if union else 1.0
    equal = sum(key in own and bool(own[key] == value) for key, value in wanted.items())
    return (1 + names + equal) / (2 + len(wanted))


def _parameters(call: Mapping[str, Any]) -> Mapping[str, Any]:
    found = call.get("parameters")
    return cast("Mapping[str, Any]", found) if isinstance(found, Mapping) else {}


def greedy(scores: Matrix) -> list[int | None]:
    """Best pair first, ties in order of rows and columns, until no score above 0 is left: a column per row, or None."""
    rows, columns = scores.shape
    pairs = sorted((-scores[i, j], i, j) for i in range(rows) for j in range(columns) if scores[i, j] > 0)
    out: list[int | None] = [None] * rows
    used: set[int] = set()
    for _, i, j in pairs:
        if out[i] is None and j not in used:
            out[i] = j
            used.add(j)
    return out


def hungarian(scores: Matrix) -> list[int | None]:
    """The assignment of largest total: a column per row, each used once; None where that gains nothing.

    Kuhn 1955 with potentials, rows added one at a time: O(rows^2 * columns).
    """
    rows, columns = scores.shape
    if rows > columns:
        turned = hungarian(scores.T.copy())
        out: list[int | None] = [None] * rows
        for j, i in enumerate(turned):
            if i is not None:
                out[i] = j
        return out
    owner = _shortest_paths(-scores)
    found = {owner[j]: j for j in range(columns) if owner[j] >= 0}
    return [found[i] if scores[i, found[i]] > 0 else None for i in range(rows)]


def _shortest_paths(cost: Matrix) -> list[int]:
    """Which row each column is given to (-1: none), at least cost; rows at most as many as columns."""
    rows, columns = cost.shape
    # One column more, the last, stands for the row that looks for a place.
    owner = [-1] * (columns + 1)
    u, v = np.zeros(rows), np.zeros(columns + 1)
    for row in range(rows):
        owner[columns], at = row, columns
        least, before = np.full(columns, np.inf), np.full(columns, columns)
        seen = np.zeros(columns + 1, dtype=bool)
        while owner[at] >= 0:
            seen[at] = True
            here = owner[at]
            reduced = cost[here] - u[here] - v[:columns]
            better = (reduced < least) & ~seen[:columns]
            least[better], before[better] = reduced[better], at
            open_least = np.where(seen[:columns], np.inf, least)
            step, following = float(open_least.min()), int(open_least.argmin())
            for j in np.flatnonzero(seen):
                u[owner[j]] += step
                v[j] -= step
            least[~seen[:columns]] -= step
            at = following
        while at != columns:
            owner[at], at = owner[before[at]], int(before[at])
    return owner[:columns]


def sinkhorn(scores: Matrix, *, reg: float = 0.1, iterations: int = 1000, tolerance: float = 1e-9) -> Matrix:
    """The entropic transport plan from rows to columns, uniform marginals, cost ``-scores``.

    In logarithms, so that a small ``reg`` does not overflow; ends after ``iterations`` or when no row's sum is off by
    more than ``tolerance``.
    """
    rows, columns = scores.shape
    log_k = scores / reg
    f, g = np.zeros(rows), np.zeros(columns)
    for _ in range(iterations):
        g = -np.log(columns) - _log_sum(log_k + f[:, None], 0)
        off = np.abs(np.exp(log_k + f[:, None] + g).sum(axis=1) - 1 / rows).max()
        if off < tolerance:
            break
        f = -np.log(rows) - _log_sum(log_k + g, 1)
    return np.exp(log_k + f[:, None] + g)


def _log_sum(values: Matrix, axis: int) -> Matrix:
    top = values.max(axis=axis, keepdims=True)
    return np.log(np.exp(values - top).sum(axis=axis)) + top.squeeze(axis)


def scores_of(called: Sequence[Mapping[str, Any]], gold: Sequence[Mapping[str, Any]]) -> Matrix:
    """The similarity of every call with every gold call, [calls, gold]."""
    return np.array([[similarity(a, b) for b in gold] for a in called], dtype=np.float64).reshape(
        len(called), len(gold)
    )
