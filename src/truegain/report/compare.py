"""Compare training methods over their runs: interquartile mean, bootstrap intervals, probability of improvement."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from truegain.core.errors import DataError
from truegain.methods import evaluation as ev
from truegain.report.escape import visible
from truegain.report.load import load_run, seed_folders
from truegain.report.tables import BASE, TRAINED, Table, problem_scores, tabulate

_REPS = 2000
Scores = list[Mapping[str, float]]
"""For each run of a method on a task, a score per problem."""


def compare(runs: Sequence[Path]) -> dict[str, Any]:
    """Methods side by side, as JSON-able data: ``methods`` (best first), ``pairs``, ``tasks``, ``notes``.

    Each folder is one run or holds ``seed-N`` runs. Folders of one recipe on different tasks are one method; other
    folders are methods of their own, named after their folder where the recipe does not tell them apart. A score is
    the trained model's test accuracy at its dev-chosen temperature; ``gain`` is that minus the base's. Intervals are
    95 % percentiles of a bootstrap over runs within each task and over problems within each task, the same problems
    for every method. Raises DataError for fewer than two folders, a run without a test, unequal numbers of runs, or
    no task or problem in common.
    """
    if len(runs) < 2:
        raise DataError("compare needs at least two run folders")
    methods = _methods([(Path(path), *_folder(Path(path))) for path in runs])
    tasks = sorted(set.intersection(*(set(by_task) for by_task in methods.values())))
    if not tasks:
        told = "; ".join(f"{name} on {', '.join(sorted(by_task))}" for name, by_task in methods.items())
        raise DataError(
            f"compare: the runs are of different tasks ({visible(told, limit=300)}), and accuracies on "
            "different problems say nothing about methods; give runs on one task"
        )
    accuracy, gain = _matrices(methods, tasks, 0), _matrices(methods, tasks, 1)
    _same_number_of_runs(accuracy, tasks)
    rows = [
        {
            "name": name,
            "runs": int(accuracy[name][0].shape[0]),
            "iqm": _estimate(accuracy[name], i),
            "mean": float(np.mean([t.mean() for t in accuracy[name]])),
            "gain": _estimate(gain[name], i),
        }
        for i, name in enumerate(methods)
    ]
    rows.sort(key=lambda row: -row["iqm"]["mean"])
    order = [row["name"] for row in rows]
    seeds = {name: i for i, name in enumerate(methods)}
    pairs = [_pair(a, b, accuracy, seeds) for a, b in combinations(order, 2)]
    return {"format": 1, "tasks": tasks, "methods": rows, "pairs": pairs, "notes": _notes(rows, tasks, accuracy)}


def _folder(path: Path) -> tuple[str, str, list[Table]]:
    """(recipe, task, the tables of its runs)."""
    tables = [tabulate(load_run(folder)) for folder in seed_folders(path)]
    for t in tables:
        if not t.test(TRAINED, None) or not t.test(BASE, None):
            raise DataError(f"{str(t.run.path)!r} has no finished test of base and trained model; finish the run first")
    settings = tables[0].run.settings
    recipe, task = (visible(str(settings.get(key, "unknown")), limit=100) for key in ("recipe", "task"))
    return recipe, task, tables


def _methods(found: Sequence[tuple[Path, str, str, list[Table]]]) -> dict[str, dict[str, tuple[Scores, Scores]]]:
    """By method and task: accuracies and gains of its runs."""
    keys = [(recipe, task) for _, recipe, task, _ in found]
    clash = len(set(keys)) < len(keys)
    names = [path.name if clash else recipe for path, recipe, _, _ in found]
    if clash and len(set(names)) < len(names):
        names = [str(path) for path, *_ in found]
    methods: dict[str, dict[str, tuple[Scores, Scores]]] = {}
    for name, (_, _, task, tables) in zip(names, found, strict=True):
        after = [problem_scores(t.test(TRAINED, None)) for t in tables]
        before = [problem_scores(t.test(BASE, None)) for t in tables]
        gains = [{p: a[p] - b[p] for p in a.keys() & b.keys()} for a, b in zip(after, before, strict=True)]
        methods.setdefault(visible(name, limit=100), {})[task] = (list(after), list(gains))
    if len(methods) < 2:
        told = ", ".join(f"{path} on {task}" for path, _, task, _ in found)
        raise DataError(
            f"compare: the runs are of different tasks ({visible(told, limit=300)}), and accuracies on "
            "different problems say nothing about methods; give runs on one task, or a second method on the same tasks"
        )
    return methods


def _matrices(
    methods: Mapping[str, Mapping[str, tuple[Scores, Scores]]], tasks: Sequence[str], which: int
) -> dict[str, list[np.ndarray]]:
    """For each method a runs x problems table per task, over the problems that every run of every method knows."""
    out: dict[str, list[np.ndarray]] = {name: [] for name in methods}
    for task in tasks:
        known = [set(run) for by_task in methods.values() for run in by_task[task][1]]
        problems = sorted(set.intersection(*known))
        if not problems:
            raise DataError(f"compare: the runs on {task!r} were tested on different problems")
        for name, by_task in methods.items():
            table = [[run[p] for p in problems] for run in by_task[task][which]]
            out[name].append(np.array(table, dtype=np.float64))
    return out


def _same_number_of_runs(tables: Mapping[str, Sequence[np.ndarray]], tasks: Sequence[str]) -> None:
    for name, per_task in tables.items():
        counts = [t.shape[0] for t in per_task]
        if len(set(counts)) > 1:
            told = ", ".join(f"{n} on {task}" for n, task in zip(counts, tasks, strict=True))
            raise DataError(f"compare: {name!r} has {told} runs; a method needs equally many on every task")


def _estimate(tables: Sequence[np.ndarray], seed: int) -> dict[str, float]:
    """The interquartile mean with its interval."""
    iqm, point = ev.interquartile_mean, np.stack([t.mean(axis=1) for t in tables], axis=-1)
    return _with_percentiles(float(iqm(point)), iqm(ev.nested_bootstrap(tables, reps=_REPS, seed=seed)))


def _with_percentiles(value: float, replicates: np.ndarray) -> dict[str, float]:
    low, high = (float(v) for v in np.quantile(replicates, [0.025, 0.975]))
    return {"mean": value, "low": low, "high": high}


def _pair(a: str, b: str, tables: Mapping[str, Sequence[np.ndarray]], seeds: Mapping[str, int]) -> dict[str, Any]:
    """Difference of interquartile means, a minus b, and how often a run of a beats one of b."""
    points = [np.stack([t.mean(axis=1) for t in tables[name]], axis=-1) for name in (a, b)]
    drawn = [ev.nested_bootstrap(tables[name], reps=_REPS, seed=seeds[name]) for name in (a, b)]
    iqm = ev.interquartile_mean
    gap = float(iqm(points[0]) - iqm(points[1]))
    chance = float(ev.probability_of_improvement(points[0], points[1]))
    return {
        "a": a,
        "b": b,
        "difference": _with_percentiles(gap, iqm(drawn[0]) - iqm(drawn[1])),
        "probability_of_improvement": _with_percentiles(chance, ev.probability_of_improvement(drawn[0], drawn[1])),
    }


def _notes(
    rows: Sequence[Mapping[str, Any]], tasks: Sequence[str], tables: Mapping[str, Sequence[np.ndarray]]
) -> list[str]:
    sizes = ", ".join(str(t.shape[1]) for t in next(iter(tables.values())))
    notes = [f"Scored on {sizes} problems that every run was tested on, each run at its own best temperature."]
    fewest = min(row["runs"] for row in rows)
    if fewest == 1:
        notes.append("A method with one run: its interval speaks of problems, not of other seeds.")
    elif fewest < 5:
        notes.append(f"With {fewest} runs a bootstrap interval is too narrow; five or more are wanted.")
    if fewest * len(tasks) < 4:
        notes.append("With fewer than four scores the interquartile mean is the plain mean.")
    return notes
