"""Arrange the records of one or several runs by arm, temperature and problem."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from truegain.core.errors import DataError
from truegain.methods import evaluation as ev
from truegain.report.load import Record, Run

BASE, TRAINED = "base", "trained"
Group = Mapping[str, Sequence[Record]]
"""The samples of each problem, by problem id."""


@dataclass(frozen=True)
class Table:
    """One run's records, grouped by (arm, split, temperature), and the temperature dev chose for each arm."""

    run: Run
    groups: Mapping[tuple[str, str, float], Group]
    chosen: Mapping[str, float]

    def test(self, arm: str, temperature: float | None) -> Group:
        """Test samples of an arm at a temperature; at its dev-chosen one for None. Empty when there are none."""
        if temperature is None:
            temperature = self.chosen.get(arm)
        return self.groups.get((arm, "test", temperature), {}) if temperature is not None else {}

    @property
    def arms(self) -> list[str]:
        """The arms that have test samples: base, trained, then the controls by name."""
        found = {arm for arm, split, _ in self.groups if split == "test"}
        return sorted(found, key=lambda a: (a != BASE, a != TRAINED, a))


def tabulate(run: Run) -> Table:
    """Group a run's records and choose each arm's temperature on dev."""
    groups: dict[tuple[str, str, float], dict[str, list[Record]]] = {}
    for record in run.records:
        key = (record.arm, record.split, record.temperature)
        groups.setdefault(key, {}).setdefault(record.problem, []).append(record)
    chosen: dict[str, float] = {}
    for arm in {r.arm for r in run.records}:
        dev = [r for r in run.records if r.arm == arm and r.split == "dev"]
        try:
            chosen[arm] = ev.best_temperature(np.array([r.temperature for r in dev]), gold(dev), problem_ids(dev))
        except DataError:
            continue
    return Table(run, groups, chosen)


def gold(records: Sequence[Record]) -> np.ndarray:
    """Gold scores [N], NaN where the checker abstained."""
    return np.array([np.nan if r.gold is None else r.gold for r in records], dtype=np.float64)


def problem_ids(records: Sequence[Record]) -> np.ndarray:
    """Problem numbers [N] within these records."""
    numbers: dict[str, int] = {}
    return np.array([numbers.setdefault(r.problem, len(numbers)) for r in records], dtype=np.int64)


def flat(group: Group) -> list[Record]:
    """All samples of a group."""
    return [record for samples in group.values() for record in samples]


def problem_scores(group: Group) -> dict[str, float]:
    """Mean gold of each problem's valid samples; problems with none are absent."""
    scores: dict[str, float] = {}
    for problem, samples in group.items():
        valid = [r.gold for r in samples if r.gold is not None]
        if valid:
            scores[problem] = sum(valid) / len(valid)
    return scores


def stack(scores: Sequence[Mapping[str, float]]) -> np.ndarray:
    """One row per run, one column per problem that any run knows (sorted by id), NaN where a run does not know it."""
    problems = sorted({p for row in scores for p in row})
    return np.array([[row.get(p, np.nan) for p in problems] for row in scores], dtype=np.float64)


def difference(after: Mapping[str, float], before: Mapping[str, float], problems: set[str]) -> dict[str, float]:
    """``after - before`` for each of ``problems``, NaN where either is unknown."""
    return {p: after.get(p, np.nan) - before.get(p, np.nan) for p in problems}


Metric = Callable[..., ev.Estimate]


def interval(x: np.ndarray, mean: Metric = ev.difference_mean) -> dict[str, Any]:
    """Mean over runs x problems with 95 % and 99 % intervals, clustered by problem and over runs.

    ``mean`` is `difference_mean` for differences, `proportion_mean` for shares of right answers.
    Runs that were tried on different problems (less than half in common) are each one number: the interval then is
    over runs alone, which holds all their variation.
    """
    if x.shape[0] > 1 and (~np.isnan(x).any(axis=0)).mean() < 0.5:
        x, problems = np.nanmean(x, axis=1)[:, None], int((~np.isnan(x)).any(axis=0).sum())
        narrow, wide = (mean(x.T, level=level) for level in (0.95, 0.99))
        return _as_dict(narrow, wide) | {"problems": problems}
    narrow, wide = (mean(x, level=level) for level in (0.95, 0.99))
    return _as_dict(narrow, wide)


def _as_dict(narrow: ev.Estimate, wide: ev.Estimate) -> dict[str, Any]:
    return {
        "mean": narrow.value,
        "low": narrow.low,
        "high": narrow.high,
        "low99": wide.low,
        "high99": wide.high,
        "se": narrow.se,
        "problems": narrow.clusters,
        "dropped": narrow.dropped,
    }


def accuracy(tables: Sequence[Table], arm: str, temperature: float | None) -> dict[str, Any] | None:
    """An arm's test accuracy over the runs that have it (None: at the temperature dev chose)."""
    rows = [scores for t in tables if (scores := problem_scores(t.test(arm, temperature)))]
    return interval(stack(rows), ev.proportion_mean) if rows else None


def gain(
    tables: Sequence[Table], after: str, before: str, temperature: float | None
) -> tuple[dict[str, Any], np.ndarray] | None:
    """Paired test difference of two arms, each at ``temperature`` (None: at its own dev-chosen one), and the matrix.

    A problem that one arm never answered validly is dropped and counted. None when no run has both arms.
    """
    rows: list[dict[str, float]] = []
    for t in tables:
        a, b = t.test(after, temperature), t.test(before, temperature)
        if a and b:
            rows.append(difference(problem_scores(a), problem_scores(b), set(a) | set(b)))
    if not rows:
        return None
    matrix = stack(rows)
    return interval(matrix), matrix
