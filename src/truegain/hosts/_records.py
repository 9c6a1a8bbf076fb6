"""Files that `truegain convert` wrote, as a task: every problem as it was, in the split that its row states."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from truegain.core.errors import DataError, SettingError
from truegain.core.types import SPLITS, Problem, Split
from truegain.tasks import TASKS, make
from truegain.tasks._file_rows import is_message
from truegain.tasks._rows import SUFFIXES, jsonable, read_rows
from truegain.tasks.keys import Keys

RECORD = "truegain"
"""The column, in verl within ``extra_info``, that holds a problem as it is."""
_KNOBS = ("checker", "dev", "test", "name")


def record_of(problem: Problem, split: Split = "train") -> str:
    """A problem as one JSON text, in ASCII, so that any string survives."""
    prompt = problem.prompt if isinstance(problem.prompt, str) else [dict(message) for message in problem.prompt]
    return json.dumps(
        {"id": problem.id, "split": split, "prompt": prompt, "answer": problem.answer, "meta": jsonable(problem.meta)}
    )


def from_record(text: str, place: str = "the column 'truegain'") -> tuple[Split, Problem]:
    """What `record_of` wrote. Raises DataError, naming ``place``, for anything else."""
    try:
        held = json.loads(text)
        prompt, meta, answer, split = held["prompt"], held["meta"], held["answer"], held["split"]
        ident = held["id"]
    except (ValueError, RecursionError, TypeError, KeyError) as error:
        raise DataError(f"{place}: no problem that truegain wrote ({type(error).__name__})") from error
    whole = isinstance(prompt, str) or (isinstance(prompt, list) and bool(prompt) and all(map(is_message, prompt)))
    right = whole and isinstance(ident, str) and isinstance(meta, dict) and isinstance(answer, str | None)
    if not right or split not in SPLITS:
        raise DataError(f"{place}: no problem that truegain wrote (a part of it has the wrong type)")
    return split, Problem(ident, prompt if isinstance(prompt, str) else tuple(prompt), answer, meta)


class Recorded(Keys):
    """The problems of converted files, each once, under their own ids and splits; ``checker`` judges their answers.

    Raises DataError for a row without a record, and for two problems of one id.
    """

    def __init__(self, files: Sequence[Path], name: str | None = None, checker: str = "exact") -> None:
        """Read all the files. Without a name it has that of the task that all problems state, else the first file's."""
        super().__init__(checker)
        self.checker, self.files = checker, tuple(files)
        found: dict[str, tuple[Split, Problem, str]] = {}
        for split, problem, place in (row for file in files for row in _rows(file)):
            before = found.setdefault(problem.id, (split, problem, place))
            if before[0] != split or record_of(before[1]) != record_of(problem):  # by text, as NaN equals nothing
                what = "in another split" if before[0] != split else "another problem"
                raise DataError(f"{place}: the problem {problem.id} is {what} at {before[2]}; keep one of the two")
        stated = {problem.meta.get("task") for _, problem, _ in found.values()}
        only = stated.pop() if len(stated) == 1 else None
        self.name = name or (only if isinstance(only, str) and only else files[0].stem)
        self._splits = {one: [problem for split, problem, _ in found.values() if split == one] for one in SPLITS}

    def problem(self, split: Split, index: int) -> Problem:
        """The index-th problem of a split, in the order of the files. Raises IndexError past the end."""
        if not 0 <= index < len(self._splits[split]):
            raise IndexError(
                f"{self.name}: the {split} split has {len(self._splits[split])} problems, no index {index}"
            )
        return self._splits[split][index]

    def size(self, split: Split) -> int:
        """How many problems the split has."""
        return len(self._splits[split])

    def checked_by(self) -> str:
        """The spec by which a package for verifiers is checked: a file in TRL's columns with the checker.

        Raises SettingError where a checker of answers cannot stand for the one of the task that made the problems, and
        for files without answers or in verl's columns.
        """
        metas = [problem.meta for problems in self._splits.values() for problem in problems]
        maker = next((m["task"] for m in metas if m.get("task") in TASKS and "content" in m), None)
        if maker is not None:
            raise SettingError(f"{self.files[0]}: problems of the task {maker}, which checks them; name it instead")
        spec = f"{self.files[0]},checker={self.checker}"
        try:
            make(spec)
        except DataError as error:
            mend = "a package for verifiers is made of files in TRL's columns, with answers"
            raise SettingError(f"{error}; {mend}") from error
        return spec


def recorded(spec: str) -> Recorded | None:
    """The problems of a spec that names a converted file, or a folder of them; None for any other spec.

    ``sets``; ``sets/train.jsonl``; ``sets/train.parquet,test=sets/test.parquet,checker=math``. A file whose first row
    carries no record is none, nor is one that is to be read by columns of its own (``prompt_column=...``).
    Raises DataError where only some rows carry one, SettingError for an unknown checker.
    """
    head, *settings = [part.strip() for part in spec.split(",")]
    place = Path(head).expanduser()
    knobs = {name: text for name, _, text in (part.partition("=") for part in settings)}
    if any(name not in _KNOBS for name in knobs):
        return None
    if place.is_dir():
        files = sorted(path for path in place.iterdir() if path.suffix.lower() in SUFFIXES and path.is_file())
        if settings and {"dev", "test"} & set(knobs):
            raise SettingError(f"{head}: a folder brings its splits along; leave out dev= and test=")
    else:
        files = [place] if place.is_file() and place.suffix.lower() in SUFFIXES else []
    if not any(map(_carries, files)):
        return None
    files += [Path(knobs[split]) for split in ("dev", "test") if split in knobs]
    return Recorded(files, knobs.get("name"), knobs.get("checker", "exact"))


def _carries(file: Path) -> bool:
    """Whether the first row carries a record. An unreadable file carries none: whoever reads it says why."""
    try:
        row = next(iter(read_rows(file)), None)
    except DataError:
        return False
    return row is not None and _record(row[1]) is not None


def _rows(file: Path) -> Iterator[tuple[Split, Problem, str]]:
    for place, row in read_rows(file):
        where, text = f"{file}, {place}", _record(row)
        if text is None:
            raise DataError(
                f"{where}: no column 'truegain', which other rows of this data have; convert the files apart"
            )
        split, problem = from_record(text, where)
        yield split, problem, where


def _record(row: Mapping[str, Any]) -> str | None:
    info = row.get("extra_info")
    texts = (row.get(RECORD), info.get(RECORD) if isinstance(info, Mapping) else None)
    return next((text for text in texts if isinstance(text, str)), None)
