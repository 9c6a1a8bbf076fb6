"""Read a run folder. Its files are data written by a run that may have been killed, by a policy that may be hostile."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from truegain.core.errors import DataError

TEXT_KEPT = 4000
"""Characters of a completion that are kept; a page shows fewer."""

_MAX_LINE = 16_000_000  # bytes; a longer line is read in pieces, none of which is JSON


@dataclass(frozen=True)
class Record:
    """One evaluated sample. ``gold`` and ``proxy`` are None where the scorer abstained."""

    arm: str
    split: str
    temperature: float
    problem: str
    sample: int
    gold: float | None
    proxy: float | None
    tokens: int
    stop: str
    prompt: str
    answer: str
    text: str
    text_length: int
    final: str | None


@dataclass(frozen=True)
class Run:
    """One training run as it lies on disk; ``skipped`` counts the unreadable lines of each file.

    ``guard`` is what the gold-gap guard said at each look, empty for a run without one.
    """

    path: Path
    settings: Mapping[str, Any]
    steps: tuple[Mapping[str, Any], ...]
    evals: tuple[Mapping[str, Any], ...]
    records: tuple[Record, ...]
    skipped: Mapping[str, int]
    guard: tuple[Mapping[str, Any], ...] = ()

    @property
    def name(self) -> str:
        """The folder's name."""
        return self.path.name


def seed_folders(path: Path) -> list[Path]:
    """The ``seed-N`` subfolders of a run folder in the order of N; the folder itself when there are none.

    Raises DataError when the folder is missing or holds no run.
    """
    if not path.is_dir():
        raise DataError(f"run folder {str(path)!r} does not exist; give the folder that `truegain train --out` wrote")
    seeds = [p for p in path.glob("seed-*") if p.is_dir() and p.name[5:].isdigit()]
    if seeds:
        return sorted(seeds, key=lambda p: int(p.name[5:]))
    if not any((path / name).exists() for name in ("settings.json", "log.jsonl", "evals")):
        raise DataError(f"{str(path)!r} holds no run: no settings.json, log.jsonl or seed-N folder in it")
    return [path]


def load_run(path: Path) -> Run:
    """Read one seed's folder. Missing files read as empty; damaged lines are skipped and counted.

    Lines written again after a resume replace the earlier ones. Raises DataError when settings.json is unreadable.
    """
    skipped: dict[str, int] = {}
    steps: dict[float, Mapping[str, Any]] = {}
    evals: dict[float, Mapping[str, Any]] = {}
    guard: dict[float, Mapping[str, Any]] = {}
    for line in _lines(path / "log.jsonl", skipped):
        step = number(line.get("step"))
        table = {"step": steps, "eval": evals, "guard": guard}.get(str(line.get("kind")))
        if table is not None and step is not None:
            table[step] = line
    records: dict[tuple[str, str, float, str, int], Record] = {}
    for line in _lines(path / "evals" / "records.jsonl", skipped):
        record = _record(line)
        if record is None:
            skipped["records.jsonl"] = skipped.get("records.jsonl", 0) + 1
        else:
            records[record.arm, record.split, record.temperature, record.problem, record.sample] = record
    in_order = [tuple(table[step] for step in sorted(table)) for table in (steps, evals, guard)]
    return Run(path, _settings(path), in_order[0], in_order[1], tuple(records.values()), skipped, in_order[2])


def number(value: Any) -> float | None:
    """A finite float, or None for anything else."""
    if isinstance(value, bool | int | float):
        try:
            value = float(value)
        except OverflowError:
            return None
        return value if math.isfinite(value) else None
    return None


def _settings(path: Path) -> Mapping[str, Any]:
    file = path / "settings.json"
    if not file.exists():
        return {}
    try:
        settings = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, OSError, RecursionError) as error:
        raise DataError(
            f"{str(file)!r} is unreadable ({type(error).__name__}); restore it or start the run anew"
        ) from error
    if not isinstance(settings, dict):
        raise DataError(f"{str(file)!r} must hold a JSON object, not a {type(settings).__name__}")
    return settings


def _lines(file: Path, skipped: dict[str, int]) -> Iterator[dict[str, Any]]:
    """The JSON objects of a file, one per line; what cannot be read is counted in ``skipped``."""
    if not file.exists():
        return
    bad = 0
    with file.open("rb") as stream:
        while raw := stream.readline(_MAX_LINE):
            if not raw.strip():
                continue
            try:
                line = json.loads(raw.decode("utf-8"))
            except (ValueError, RecursionError):
                line = None
            if isinstance(line, dict):
                yield line
            else:
                bad += 1
    if bad:
        skipped[file.name] = skipped.get(file.name, 0) + bad


def _score(value: Any) -> tuple[bool, float | None]:
    """(is legal, score): a number in [0, 1], or None for an abstention."""
    if value is None:
        return True, None
    score = number(value)
    return (score is not None and 0.0 <= score <= 1.0), score


def _text(value: Any) -> str:
    return "" if value is None else str(value)[:TEXT_KEPT]


def _record(line: Mapping[str, Any]) -> Record | None:
    legal, gold = _score(line.get("gold"))
    temperature, tokens, sample = (number(line.get(k)) for k in ("temperature", "tokens", "sample"))
    arm, split, problem = (line.get(k) for k in ("arm", "split", "problem"))
    if not legal or temperature is None or not all(isinstance(v, str) for v in (arm, split, problem)):
        return None
    text, final = line.get("text"), line.get("final")
    text = text if isinstance(text, str) else ""
    return Record(
        arm=str(arm)[:80],
        split=str(split),
        temperature=round(temperature, 6),
        problem=str(problem)[:200],
        sample=int(sample or 0),
        gold=gold,
        proxy=number(line.get("proxy")),
        tokens=int(tokens or 0),
        stop=str(line.get("stop"))[:20],
        prompt=_text(line.get("prompt")),
        answer=_text(line.get("answer")),
        text=text[:TEXT_KEPT],
        text_length=len(text),
        final=final[:TEXT_KEPT] if isinstance(final, str) else None,
    )
