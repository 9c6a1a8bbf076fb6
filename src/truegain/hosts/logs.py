"""Read the log of a run, whoever wrote it: ours, TRL's (any transformers trainer's) or verl's.

========= ===================================== =============================================================
host      where its lines lie                   what they are
========= ===================================== =============================================================
truegain  ``RUN/log.jsonl``                     one JSON object a line, with ``kind`` and ``step``
trl       ``trainer_state.json``                one JSON object whose ``log_history`` is a list of objects
verl      ``PROJECT/EXPERIMENT.jsonl``          ``{"step": n, "data": {metric: number}}`` a line (logger ``file``)
========= ===================================== =============================================================

The files are data from a run that may be going on, or was killed, or is somebody else's: what is read is bounded,
nothing is unpickled, a half-written last line is left out, and a line that is damaged is counted, not believed. verl
opens its file anew when a run is resumed, so its log then begins at that step.
"""

from __future__ import annotations

import json
import math
import os
import re
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from truegain.core.errors import DataError

HOSTS = ("truegain", "trl", "verl")
MAX_BYTES = 256 * 1024 * 1024
"""A longer log is refused."""
MAX_LINE = 16 * 1024 * 1024
"""A longer line counts as damaged."""
MAX_STEP = 10**12

_STATE = "trainer_state.json"
_NOT_FINITE = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


@dataclass(frozen=True)
class Checkpoint:
    """A folder with the weights of a step. Whether they are whole is not looked at here."""

    step: int
    path: Path


@dataclass(frozen=True)
class Log:
    """What a run wrote.

    ``path`` is the file that was read. ``lines`` are flat objects in the order of the file, each with an integer
    ``step``; verl's ``data`` is unwrapped. ``settings`` are ours (``settings.json``), or what TRL's state says beside
    its history (``max_steps``, ``best_metric``, ...). ``skipped`` counts damaged lines; ``torn`` says that the last
    line was half written and left out.
    """

    host: str
    path: Path
    lines: tuple[Mapping[str, Any], ...]
    checkpoints: tuple[Checkpoint, ...]
    settings: Mapping[str, Any]
    skipped: int = 0
    torn: bool = False

    def keys(self) -> dict[str, int]:
        """Every metric that is a finite number somewhere, with the number of steps that have it, in reading order."""
        steps: dict[str, set[int]] = {}
        for line in self.lines:
            for key, value in line.items():
                if key != "step" and number(value) is not None:
                    steps.setdefault(key, set()).add(line["step"])
        return {key: len(found) for key, found in steps.items()}

    def series(self, key: str) -> dict[int, float]:
        """The metric by step, in the order of steps; of two lines of a step the later counts (it was written again)."""
        found: dict[int, float] = {}
        for line in self.lines:
            value = number(line.get(key))
            if value is not None:
                found[line["step"]] = value
        return dict(sorted(found.items()))

    def checkpoint(self, step: int) -> Checkpoint | None:
        """The checkpoint of a step, if there is one."""
        return next((one for one in self.checkpoints if one.step == step), None)


def read_log(path: Path | str) -> Log:
    """Read a run: a folder, or the log itself. See the table above for where it is looked for.

    In a folder of ours that is ``log.jsonl``; in a folder of TRL's its own ``trainer_state.json`` or that of the newest
    ``checkpoint-N``; in a folder of verl's the one file of its lines. Raises DataError, in one line that says what was
    looked for, if there is none, or several, or what is there cannot be used.
    """
    path = Path(path)
    try:
        kind = path.stat().st_mode
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}); give a run folder or a log file") from error
    if stat.S_ISDIR(kind):
        return _read_folder(path)
    if path.suffix == ".json":
        return _read_state(path)
    return _read_lines(path)


def number(value: Any) -> float | None:
    """A finite float, or None for whatever else a log holds.

    >>> number(3), number("0.5"), number(True), number(float("nan")), number(10**400)
    (3.0, None, None, None, None)
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        found = float(value)
    except OverflowError:
        return None
    return found if math.isfinite(found) else None


def read_objects(path: Path) -> list[dict[str, Any]]:
    """The objects of a file of JSON lines, damaged and half-written ones left out; none where there is no such file.

    Bounded like a log. Raises DataError for what is no ordinary file.
    """
    return [line for line, _ in _objects(path) if line is not None] if path.exists() else []


def read_object(path: Path) -> dict[str, Any] | None:
    """The object that a JSON file holds; None for another file, or none."""
    if not path.is_file():
        return None
    with _open(path) as file:
        return _object(file.read(MAX_BYTES + 1))


# Where it lies


def _read_folder(folder: Path) -> Log:
    if (folder / "log.jsonl").is_file():
        return _read_lines(folder / "log.jsonl")
    seeds = sorted(p.parent.name for p in folder.glob("seed-*/log.jsonl"))
    if seeds:
        raise DataError(f"{folder} holds {len(seeds)} seeds; give one of them, such as {folder / seeds[0]}")
    states = [p for p in (folder / _STATE, *sorted(folder.glob(f"checkpoint-*/{_STATE}"))) if p.is_file()]
    if states:
        # The newest: the folder's own is written only at the end of a run that asks for it.
        return max((_read_state(state) for state in states), key=_progress)
    lines = [p for p in sorted(folder.glob("*.jsonl")) if _host_of(_first(p)) is not None]
    if len(lines) > 1:
        raise DataError(f"{folder} holds {len(lines)} logs ({', '.join(p.name for p in lines[:4])}); give one of them")
    if not lines:
        raise DataError(
            f"{folder} holds no log: no log.jsonl (truegain), no {_STATE} (TRL), and no .jsonl of verl's file logger"
        )
    return _read_lines(lines[0])


def _progress(log: Log) -> float:
    return number(log.settings.get("global_step")) or 0.0


def _checkpoints(pattern: str, *homes: Path) -> tuple[Checkpoint, ...]:
    """Folders called ``PREFIX-N`` or ``PREFIX_N`` in the first of the homes that has some, by step."""
    for home in homes:
        named = ((p, re.fullmatch(pattern, p.name)) for p in home.iterdir()) if home.is_dir() else ()
        found = [Checkpoint(int(name[1]), p) for p, name in named if name and p.is_dir()]
        if found:
            return tuple(sorted(found, key=lambda one: one.step))
    return ()


# Ours and verl's: a line per object


def _read_lines(path: Path) -> Log:
    host: str | None = None
    lines: list[Mapping[str, Any]] = []
    skipped, torn = 0, False
    for line, whole in _objects(path):
        host = host or _host_of(line)
        flat = None if line is None else _flat(line)
        if flat is not None:
            lines.append(flat)
        elif whole:
            skipped += 1
        else:
            torn = True
    if host is None:
        raise DataError(
            f"{path} is no log that can be read: its lines are neither ours ({{'kind', 'step', ...}}) nor verl's "
            "({'step', 'data'})"
        )
    home = path.parent
    if host == "truegain":
        settings, checkpoints = (
            _settings(home / "settings.json"),
            _checkpoints(r"step-(\d{6,12})", home / "checkpoints"),
        )
    else:
        # By default verl writes ROOT/PROJECT/EXPERIMENT.jsonl and ROOT/checkpoints/PROJECT/EXPERIMENT.
        usual = home.parent / "checkpoints" / home.name / path.stem
        settings, checkpoints = {}, _checkpoints(r"global_step_(\d{1,12})", home, usual)
    return Log(host, path, tuple(lines), checkpoints, settings, skipped, torn)


def _objects(path: Path) -> Iterator[tuple[dict[str, Any] | None, bool]]:
    """Every line as an object, None for one that is none, with whether the line is whole (it ends)."""
    with _open(path) as file:
        while raw := file.readline(MAX_LINE):
            whole = raw.endswith(b"\n")
            if not whole and len(raw) == MAX_LINE:
                while not whole and (more := file.readline(MAX_LINE)):
                    whole = more.endswith(b"\n")
                yield None, True
            elif raw.strip():
                yield _object(raw), whole


def _first(path: Path) -> dict[str, Any] | None:
    """The first line that is an object, of the first few; None where the file cannot be read."""
    try:
        with _open(path) as file:
            for _ in range(8):
                found = _object(file.readline(MAX_LINE))
                if found is not None:
                    return found
    except DataError:
        pass
    return None


def _host_of(line: Mapping[str, Any] | None) -> str | None:
    if line is None or _step(line) is None:
        return None
    if isinstance(line.get("data"), Mapping):
        return "verl"
    return "truegain" if isinstance(line.get("kind"), str) else None


def _flat(line: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The line with its metrics beside an integer ``step``; None for one without a step."""
    step, data = _step(line), line.get("data")
    if step is None:
        return None
    found = data if isinstance(data, Mapping) else line
    return {str(key): _finite_text(value) for key, value in found.items()} | {"step": step}


def _step(line: Mapping[str, Any]) -> int | None:
    step = line.get("step")
    if isinstance(step, bool) or not isinstance(step, int) or not 0 <= step <= MAX_STEP:
        return None
    return step


def _finite_text(value: Any) -> Any:
    """What our logs write as text, as JSON has no such numbers."""
    return _NOT_FINITE.get(value, value) if isinstance(value, str) else value


# TRL's: one object


def _read_state(path: Path) -> Log:
    with _open(path) as file:
        state = _object(file.read(MAX_BYTES + 1))
    history = None if state is None else state.get("log_history")
    if state is None or not isinstance(history, list):
        raise DataError(f"{path} holds no object with a log_history: it is no {_STATE}, or it is half written")
    found = [_flat(line) if isinstance(line, dict) else None for line in history]
    lines = tuple(line for line in found if line is not None)
    settings = {key: value for key, value in state.items() if key != "log_history"}
    home = path.parent
    checkpoints = _checkpoints(r"checkpoint-(\d{1,12})", home, home.parent)
    return Log("trl", path, lines, checkpoints, settings, len(found) - len(lines))


# The files


def _settings(path: Path) -> Mapping[str, Any]:
    if not path.is_file():
        return {}
    with _open(path) as file:
        return _object(file.read(MAX_LINE)) or {}


def _object(raw: bytes) -> dict[str, Any] | None:
    try:
        found = json.loads(raw)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _open(path: Path) -> Any:
    """An ordinary file, opened without waiting for a writer. Raises DataError for anything else."""
    try:
        # O_NONBLOCK: a pipe would else hold the reader until somebody writes to it.
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}); give a run folder or a log file") from error
    found = os.fstat(handle)
    if not stat.S_ISREG(found.st_mode) or found.st_size > MAX_BYTES:
        os.close(handle)
        why = "is no ordinary file" if not stat.S_ISREG(found.st_mode) else f"has more than {MAX_BYTES // 1024**2} MiB"
        raise DataError(f"{path} {why}; give a run folder or a log file")
    return os.fdopen(handle, "rb")
