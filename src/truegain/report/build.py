"""From a run folder to the report's data, the content of report.json."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from truegain.methods import evaluation as ev
from truegain.report.curves import curves, ledger
from truegain.report.escape import visible
from truegain.report.examples import examples
from truegain.report.figures import calibration_figure, length_figure, pass_curves
from truegain.report.frontier import frontier
from truegain.report.guarded import guarded
from truegain.report.load import Run, load_run, seed_folders
from truegain.report.remarks import label, remarks
from truegain.report.tables import BASE, TRAINED, Table, accuracy, flat, gain, tabulate
from truegain.report.verdict import MAX_ABSTAINED, MAX_DROPPED, MIN_PROBLEMS, RULE, decide, percent, sentence

_NO_GAIN: dict[str, Any] = {"mean": None, "low": None, "high": None, "low99": None, "high99": None, "problems": 0}


def build(run: Path) -> dict[str, Any]:
    """All that the page, the terminal and other programs need of a run, as JSON-able data.

    ``gain.mean``, ``gain.low``, ``gain.high`` (fractions) are the paired per-problem difference trained minus base on
    the test split with its 95 % interval, each model at the temperature dev chose for it; ``verdict`` is one of
    `truegain.report.verdict.VERDICTS`. Both are None, with ``reason``, while the run cannot be judged yet. A folder of
    ``seed-N`` folders is one report over all of them. Raises DataError when the folder holds no run.
    """
    return build_data([load_run(folder) for folder in seed_folders(Path(run))], name=Path(run).name)


def build_data(runs: Sequence[Run], *, name: str) -> dict[str, Any]:
    """`build` for runs that are already in memory."""
    tables = [tabulate(run) for run in runs]
    arms = [a for a in (BASE, TRAINED) if any(a in t.arms for t in tables)]
    arms += sorted({a for t in tables for a in t.arms} - {BASE, TRAINED})
    data: dict[str, Any] = {"format": 1, "run": _run_facts(runs, name), "verdict": None, "reason": None, "sentence": ""}
    data |= {"rule": RULE, "gain": dict(_NO_GAIN), "gain_t1": None}
    data["arms"] = {arm: _arm(tables, arm) for arm in arms}
    best, t1 = gain(tables, TRAINED, BASE, None), gain(tables, TRAINED, BASE, 1.0)
    if best is not None:
        data["gain"] = best[0] | _beside(best[1])
    if t1 is not None:
        data["gain_t1"] = t1[0]
    data["reason"] = _reason(tables, data)
    if data["reason"] is None:
        data["verdict"] = decide(data["gain"], data["gain_t1"])
        data["sentence"] = sentence(data["verdict"], data, len(runs))
    else:
        data["sentence"] = f"{data['reason'][0].upper()}{data['reason'][1:]}."
    data["pass_at_k"] = pass_curves(tables, arms)
    data["length_matched"] = length_figure(tables)
    data["frontier"] = frontier(tables, arms)
    data["calibration"] = calibration_figure(tables)
    data["curves"] = curves(runs)
    data["examples"] = examples(tables)
    data["ledger"] = ledger(runs)
    data["guard"] = [guarded(run) for run in runs]
    data["remarks"] = remarks(data, tables)
    return _plain(data)


def _run_facts(runs: Sequence[Run], name: str) -> dict[str, Any]:
    """What was run. Facts that the runs share are taken from the first."""
    first = runs[0].settings
    text = {key: visible(str(first.get(key, "unknown")), limit=200) for key in ("model", "task", "recipe")}
    argv = first.get("argv")
    command = first.get("command") or (" ".join(map(str, argv)) if isinstance(argv, list) else "not recorded")
    return text | {
        "name": visible(name, limit=200),
        "seeds": [r.settings.get("seed") for r in runs],
        "proxy_is_gold": all(r.settings.get("proxy_is_gold") is True for r in runs),
        "command": visible(str(command), limit=2000),
        "settings": first.get("settings", {}),
        "versions": first.get("versions", {}),
    }


def _arm(tables: Sequence[Table], arm: str) -> dict[str, Any]:
    """One row of the table of arms."""
    name, note = label(arm)
    samples = [r for t in tables for r in flat(t.test(arm, None))]
    over = gain(tables, TRAINED, arm, None) if arm != TRAINED else None
    return {
        "label": visible(name, limit=80),
        "note": note,
        "temperatures": [t.chosen.get(arm) for t in tables],
        "best": accuracy(tables, arm, None),
        "t1": accuracy(tables, arm, 1.0),
        "trained_minus": over[0] if over else None,
        "samples": len(samples),
        "abstained": sum(r.gold is None for r in samples),
        "tokens": sum(r.tokens for r in samples) / len(samples) if samples else None,
    }


def _beside(matrix: np.ndarray) -> dict[str, Any]:
    """How the gain's interval was made; for one run also the BCa bootstrap and the exact test that should agree."""
    if matrix.shape[0] > 1:
        return {
            "method": "two-way: problems and training runs both random; variance from the mean squares of the runs x "
            "problems table, t interval with Satterthwaite's degrees of freedom",
            "per_run": [float(v) for v in np.nanmean(matrix, axis=1)],
        }
    boot = ev.cluster_bootstrap(matrix[0], reps=2000)
    return {
        "method": "t interval over problems of the paired per-problem difference",
        "bootstrap": {"low": boot.low, "high": boot.high},
        "sign_flip_p": ev.sign_flip(matrix[0], flips=4000),
    }


def _reason(tables: Sequence[Table], data: Mapping[str, Any]) -> str | None:
    """Why there can be no verdict, or None."""
    for arm in (BASE, TRAINED):
        for t in tables:
            why = _missing(t, arm)
            if why:
                many = f"{t.run.name}: " if len(tables) > 1 else ""
                return many + why
    found = data["gain"]
    dropped = found["dropped"] / max(found["problems"] + found["dropped"], 1)
    if dropped > MAX_DROPPED:
        return f"{percent(dropped)} of the test problems have no judged sample in one of the two models"
    for arm, name in ((BASE, "the base model's"), (TRAINED, "the trained model's")):
        row = data["arms"][arm]
        if row["abstained"] > MAX_ABSTAINED * row["samples"]:
            share = percent(row["abstained"] / row["samples"])
            return f"the checker abstained on {share} of {name} samples: what it cannot judge must not count as right"
    if found["problems"] < MIN_PROBLEMS:
        return f"only {found['problems']} test problems were judged, and a verdict needs at least {MIN_PROBLEMS}"
    if data["gain_t1"] is None or found["low99"] is None or math.isnan(found["low99"]):
        return "there are too few judged samples for an interval"
    return None


def _missing(table: Table, arm: str) -> str | None:
    name = {BASE: "the base model", TRAINED: "the trained model"}[arm]
    if arm not in table.arms:
        steps = len(table.run.steps)
        return f"{name} has not been tested yet (the log has {steps} training steps)"
    if arm not in table.chosen:
        return f"{name} has no judged dev sample, so its temperature cannot be chosen"
    if not table.test(arm, None):
        return f"{name} was not tested at temperature {table.chosen[arm]:g}, which dev chose for it"
    return None if table.test(arm, 1.0) else f"{name} was not tested at temperature 1"


def _plain(value: Any) -> Any:
    """JSON-able: mappings, lists, finite numbers; NaN and infinity become None."""
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, str | bool | int) else str(value)
