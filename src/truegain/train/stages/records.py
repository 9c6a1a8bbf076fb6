"""`Measure` and `Watch` in a chain: metrics over records, and folds over the log of a run."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np

from truegain.core.component import call, spec_of
from truegain.core.errors import DataError, WiringError
from truegain.core.forms import Measure, Watch, members
from truegain.train.folder import RunFolder, plain, read_lines, write_atomic
from truegain.train.launch import StopSignal
from truegain.train.stages.stage import Event, Stage, finish
from truegain.train.stages.study import RECORD, numbers


def measure(stage: Stage, stop: StopSignal) -> Iterator[Event]:
    """Every metric over the lines of all records files together; one that names ``fields`` is handed all arrays."""
    lines = _lines(stage.records)
    offered: dict[str, Any] = {**arrays(lines)}
    offered["fields"] = dict(offered)
    with RunFolder(stage.place):
        yield {"kind": "begin", "total": None, "unit": "", "done": 0}
        record: dict[str, Any] = {"lines": len(lines)}
        for member in members(cast(Measure, stage.form).metric):
            spec = spec_of(member)
            for name in spec.inputs:
                if name not in offered:
                    given = ", ".join(sorted(offered["fields"]))
                    raise DataError(f"{spec.full_name} needs {name!r}; the records give {given}")
            value, logs = call(member, offered, {})
            record[spec.full_name] = numbers(asdict(value) if is_dataclass(value) else value)  # pyright: ignore
            record |= {f"{spec.full_name}.{name}": numbers(found) for name, found in logs.items()}
        yield _written(stage, record)


def watch(stage: Stage, stop: StopSignal) -> Iterator[Event]:
    """Every fold over the step lines of each log, one run after the other; what it says of each step is kept."""
    with RunFolder(stage.place):
        yield {"kind": "begin", "total": None, "unit": "", "done": 0}
        record: dict[str, Any] = {}
        for member in members(cast(Watch, stage.form).fold):
            spec, made = spec_of(member), member()
            for file in stage.records:
                state, said = made.init(), list[Any]()
                for line in _lines([file]):
                    if line.get("kind") != "step":
                        continue
                    offered = {**line, "line": line, "step_index": line["step"] - 1}
                    missing = [name for name in (*spec.inputs, *spec.facts) if name not in offered]
                    if missing:
                        raise DataError(f"{spec.full_name} names {missing[0]!r}, which the lines of {file} do not hold")
                    state, out = made.update(state, **{n: offered[n] for n in (*spec.inputs, *spec.facts)})
                    said += [{"step": line["step"], **numbers(out)}] if out else []
                record[f"{spec.full_name} on {file}"] = said
        yield _written(stage, record)


def check(files: Sequence[Path], kind: str) -> None:
    """Refuse to begin without records. Raises WiringError or DataError."""
    if not files:
        what = (
            "the log.jsonl of a run" if kind == "Watch" else "a file of records, such as evals/records.jsonl of a run"
        )
        raise WiringError(f"a {kind} reads {what}: give it with --records FILE")
    for file in files:
        if not file.is_file():
            raise DataError(f"no file {str(file)!r}: --records names a file of JSON lines")


def arrays(lines: Sequence[Mapping[str, Any]]) -> dict[str, np.ndarray]:
    """Records as the arrays that metrics name.

    Every field of numbers as an array [N] by its name, NaN where it is missing; ``correct`` is the field ``gold`` where
    there is no other; ``problem`` and ``arm`` numbered by first appearance. By problem, in that order: ``n`` samples
    that were judged and ``c`` right ones among them [P], and ``x`` [P, K], each sample's ``correct``, NaN past a
    problem's last.
    """
    found: dict[str, np.ndarray] = {}
    for name in dict.fromkeys(name for line in lines for name in line):
        values = [line.get(name) for line in lines]
        if all(value is None or isinstance(value, int | float) for value in values):
            found[name] = np.array([math.nan if value is None else float(value) for value in values])
        elif name in ("problem", "arm"):
            numbered: dict[Any, int] = {}
            found[name] = np.array([numbered.setdefault(value, len(numbered)) for value in values])
    if "correct" not in found and "gold" in found:
        found["correct"] = found["gold"]
    if {"correct", "problem"} <= found.keys() and lines:
        problem = found["problem"].astype(int)
        rows = [found["correct"][problem == p] for p in range(problem.max() + 1)]
        table = np.full((len(rows), max(map(len, rows))), math.nan)
        for p, row in enumerate(rows):
            table[p, : len(row)] = row
        found |= {"x": table, "n": (~np.isnan(table)).sum(axis=1), "c": np.nansum(table, axis=1)}
    return found


def _lines(files: Sequence[Path]) -> list[dict[str, Any]]:
    lines = [line for file in files for line in read_lines(file)]
    if not lines:
        raise DataError(f"no lines in {', '.join(map(str, files))}: give the records of a run that was judged")
    return lines


def _written(stage: Stage, record: Mapping[str, Any]) -> Event:
    text = json.dumps(plain(record, RECORD), indent=1, allow_nan=False)
    write_atomic(stage.place / RECORD, text + "\n")
    finish(stage.place, form=stage.kind, record=RECORD)
    return {"kind": "record", "file": str(stage.place / RECORD), "record": dict(record)}
