"""Our problems in the formats of TRL, verl and verifiers, and back: what goes out comes in again, equal.

Each row carries, beside the host's own columns, one text column ``truegain``: the problem as it is, in JSON. Rows that
were made elsewhere have none; they are read by the host's columns alone.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

from truegain.core.errors import DataError, SettingError, nearest
from truegain.core.types import SPLITS, Message, Problem, Split, Task
from truegain.hosts._records import RECORD, from_record, record_of, recorded
from truegain.tasks import Generated, make
from truegain.tasks._file_rows import ANSWERS, PROMPTS, digest, gold, is_message
from truegain.tasks._rows import jsonable, read_rows, write_parquet
from truegain.tasks.mixture import Mixture, parse

TAKEN = frozenset(
    "prompt completion chosen rejected prompts completions completion_ids trainer_state log_metric log_extra "
    f"environments answer solution {RECORD}".split()
)
"""Names that TRL or this file gives a meaning to: a further column of that name stays in ``truegain``."""
REPEATS = 500
"""Draws in a row without a new problem, after which a generated task has no more."""
Row = dict[str, Any]
Tell = Callable[[int], None]


@dataclass(frozen=True)
class Converted:
    """Rows for a host. ``held`` names the problems' own columns that only ``truegain`` holds, see `trl_rows`."""

    rows: list[Row]
    held: tuple[str, ...] = ()


def problems_of(
    task: Task | str, split: Split = "train", count: int | None = None, tell: Tell | None = None
) -> list[Problem]:
    """The first ``count`` different problems of a split, all of a finite one when None; ``tell`` hears how many.

    A file that was converted, or a folder of them, gives its problems as they were, in the splits that its rows state.
    Fewer where a generated task has no more different ones. Raises SettingError for an unknown split, a negative
    count, and for an unlimited task without a count.
    """
    made = (recorded(task) or make(task)) if isinstance(task, str) else task
    if split not in SPLITS:
        raise SettingError(f"unknown split {split!r}{nearest(str(split), SPLITS)}; it is train, dev or test")
    size = made.size(split)
    if count is None and size is None:
        raise SettingError(f"the task {made.name} has no last problem: say how many to take, count=1000")
    if count is not None and count < 0:
        raise SettingError(f"count must be 0 or more, not {count}")
    found: dict[str, Problem] = {}
    last = size if count is None else count
    index = misses = 0
    while len(found) < cast(int, last) and misses < REPEATS and (size is None or index < size):
        problem = made.problem(split, index)
        misses = misses + 1 if problem.id in found else 0
        found.setdefault(problem.id, replace(problem, meta={k: v for k, v in problem.meta.items() if k != RECORD}))
        index += 1
        if tell is not None:
            tell(len(found))
    return list(found.values())


def in_english(spec: str, *, needs_answer: bool = True) -> Task:
    """The task of a spec for a host of messages: generated ones ask in plain English, unless it says ``chat=``.

    What was converted stays as it is, see `problems_of`.
    """
    if (held := recorded(spec)) is not None:
        return held
    made = parse(spec, needs_answer=needs_answer)
    if "chat=" in spec:
        return made
    if isinstance(made, Mixture):
        members = [replace(one, chat=True) if isinstance(one, Generated) else one for one in made.members]
        return Mixture(members, made.weights, seed=made.seed, name=made.name)
    return replace(made, chat=True) if isinstance(made, Generated) else made


def for_verifiers(spec: str) -> Task:
    """`in_english`. Raises SettingError for what a v1 harness cannot run: a task with a tool, and the bandit."""
    made = in_english(spec)
    if made.environment() is not None:
        raise SettingError(
            f"the task {made.name} has a tool that answers inside the completion, at </tool>; a v1 harness ends the "
            "assistant's message there, so it cannot run in verifiers"
        )
    if made.name == "bandit":
        raise SettingError("the task bandit is for the table policy: its answers are no text")
    return made


def problem_of(row: Mapping[str, Any], place: str = "the row", name: str = "data") -> tuple[Split, Problem]:
    """A row of a TRL data set as a problem, with its split; ``train`` where the row does not say.

    With the column ``truegain`` the problem that it holds. Without it ``prompt`` or ``question``; ``answer`` or
    ``solution``, as `truegain.tasks.files.FileTask` reads them; and all else as ``meta``.
    Raises DataError for a row without a prompt.
    """
    if isinstance(row.get(RECORD), str):
        return from_record(row[RECORD], place)
    prompt = next((row[key] for key in PROMPTS if row.get(key) is not None), None)
    messages = isinstance(prompt, list | tuple) and bool(prompt) and all(map(is_message, prompt))
    if not isinstance(prompt, str) and not messages:
        raise DataError(f"{place}: no 'prompt' that is text or {{role, content}} messages")
    key = next((key for key in ANSWERS if isinstance(row.get(key), str | int | float)), None)
    answer = None if key is None or isinstance(row[key], bool) else gold(place, key, row[key])
    shown = prompt if isinstance(prompt, str) else tuple(_message(m) for m in cast(Sequence[Any], prompt))
    meta = {str(k): jsonable(v) for k, v in row.items() if k not in ("prompt", RECORD)}
    return "train", Problem(f"{name}-{digest(place, shown).hex()}", shown, answer, meta)


def _message(given: Mapping[str, Any]) -> Message:
    return {key: value for key, value in given.items() if isinstance(value, str)}


def trl_rows(problems: Sequence[Problem], split: Split = "train") -> Converted:
    """Rows in TRL's columns: ``prompt`` (text or messages), ``answer`` and ``solution``, the problems' own columns.

    A column of the problems that is no list or number or text of one type in all rows, or has a name with a meaning of
    its own (`TAKEN`), stands in ``truegain`` only, as Arrow could not hold it; so do nested objects.
    Raises DataError where some prompts are text and some messages, or one holds half a character.
    """
    if len({isinstance(problem.prompt, str) for problem in problems}) > 1:
        raise DataError("some prompts are text and some messages, and a data set has one type: convert them apart")
    names = sorted({str(name) for problem in problems for name in problem.meta})
    kinds = {name: _kind_of([problem.meta.get(name) for problem in problems]) for name in names}
    plain = [name for name in names if name not in TAKEN and kinds[name] is not None]
    gold_ = {name: _answers(problems, name, kinds.get(name)) for name in ANSWERS}
    rows: list[Row] = []
    for i, problem in enumerate(problems):
        _check_text(problem)
        row: Row = {"prompt": problem.prompt if isinstance(problem.prompt, str) else [dict(m) for m in problem.prompt]}
        row |= {name: values[i] for name, values in gold_.items() if values is not None}
        row |= {name: jsonable(problem.meta.get(name)) for name in plain}
        rows.append({**row, RECORD: record_of(problem, split)})
    return Converted(rows, tuple(name for name in names if name not in plain and name not in ANSWERS))


def _answers(problems: Sequence[Problem], name: str, kind: str | None) -> list[Any] | None:
    """The column ``answer`` or ``solution``: as the data has it, if of one type, else what is checked against."""
    if kind is not None:
        return [problem.meta.get(name, problem.answer if kind == "str" else None) for problem in problems]
    found = [problem.answer for problem in problems]
    return found if any(answer is not None for answer in found) else None


def verl_rows(problems: Sequence[Problem], split: Split = "train", name: str = "data") -> Converted:
    """Rows in verl's columns: ``data_source``, ``prompt`` (messages), ``ability``, ``reward_model``, ``extra_info``.

    A text prompt becomes one user message. ``ground_truth`` is the answer, empty text where there is none.
    ``data_source`` is the problem's own if it has one, else ``truegain/`` and the task's name.
    """
    rows: list[Row] = []
    for index, problem in enumerate(problems):
        _check_text(problem)
        prompt = problem.prompt
        messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else [dict(m) for m in prompt]
        source, ability = problem.meta.get("data_source"), problem.meta.get("ability", problem.meta.get("task"))
        info = {"split": split, "index": index, "id": problem.id, RECORD: record_of(problem, split)}
        rows.append(
            {
                "data_source": source if isinstance(source, str) else f"truegain/{name}",
                "prompt": messages,
                "ability": ability if isinstance(ability, str) else name,
                "reward_model": {"style": "rule", "ground_truth": problem.answer or ""},
                "extra_info": info,
            }
        )
    return Converted(rows)


def from_verl_row(row: Mapping[str, Any], place: str = "the row") -> tuple[Split, Problem]:
    """A row in verl's columns as a problem, with its split. Raises DataError for one without a prompt."""
    info: Any = row.get("extra_info")
    info = info if isinstance(info, Mapping) else {}
    if isinstance(info.get(RECORD), str):
        return from_record(info[RECORD], place)
    judged: Any = row.get("reward_model")
    truth = judged.get("ground_truth") if isinstance(judged, Mapping) else None
    answer = truth if isinstance(truth, str) and truth else None if truth in (None, "") else json.dumps(jsonable(truth))
    split, problem = problem_of({**row, "answer": answer}, place)
    meta = {key: value for key, value in problem.meta.items() if key != "answer"}
    split = info["split"] if info.get("split") in SPLITS else split
    return split, Problem(problem.id, problem.prompt, answer, meta)


def to_trl(task: Task | str, split: Split = "train", count: int | None = None) -> Any:
    """A `datasets.Dataset` in TRL's columns, see `trl_rows`; ``count`` as in `problems_of`.

    Raises DataError where datasets is not installed.
    """
    try:
        from datasets import Dataset
    except ImportError as error:
        raise DataError("to_trl needs datasets: pip install 'truegain[data]'; trl_rows gives plain rows") from error
    return Dataset.from_list(trl_rows(problems_of(task, split, count), split).rows)


def to_verl_parquet(task: Task | str, path: str | Path, split: Split = "train", count: int | None = None) -> Path:
    """Write a parquet file in verl's columns, see `verl_rows`, and give its path; ``count`` as in `problems_of`.

    A spec is read by `in_english`, since verl's prompts are messages.
    """
    made = in_english(task) if isinstance(task, str) else task
    return write(verl_rows(problems_of(made, split, count), split, made.name).rows, path)


def from_trl(source: str | Path | Iterable[Mapping[str, Any]]) -> dict[Split, list[Problem]]:
    """The problems of a data file (JSON lines, JSON or parquet) or of rows, such as a `datasets.Dataset`, by split."""
    return _by_split(_read(source, lambda row, place, name: problem_of(row, place, name)))


def from_verl_parquet(source: str | Path | Iterable[Mapping[str, Any]]) -> dict[Split, list[Problem]]:
    """The problems of a file or of rows in verl's columns, by split."""
    return _by_split(_read(source, lambda row, place, name: from_verl_row(row, place)))


def _read(
    source: Any, one: Callable[[Mapping[str, Any], str, str], tuple[Split, Problem]]
) -> Iterator[tuple[Split, Problem]]:
    if isinstance(source, str | Path):
        path = Path(source)
        yield from (one(row, f"{path}, {place}", path.stem) for place, row in read_rows(path))
    else:
        yield from (one(row, f"row {number}", "data") for number, row in enumerate(source, 1))


def _by_split(found: Iterable[tuple[Split, Problem]]) -> dict[Split, list[Problem]]:
    splits: dict[Split, list[Problem]] = {}
    for split, problem in found:
        splits.setdefault(split, []).append(problem)
    return splits


def write(rows: Sequence[Row], path: str | Path) -> Path:
    """Write rows as ``.jsonl`` or ``.parquet``; a reader sees the old file or the whole new one, never a part.

    Raises SettingError for another ending, DataError where the file cannot be written.
    """
    path = Path(path)
    if path.suffix not in (".jsonl", ".parquet"):
        raise SettingError(f"{path}: name a file that ends in .jsonl or .parquet")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=path.suffix)
        os.close(handle)
        try:
            _fill(Path(name), rows)
            os.chmod(name, 0o644)
            os.replace(name, path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise DataError(f"{path}: cannot be written ({error.strerror or error}); name another place") from error
    return path


def _fill(path: Path, rows: Sequence[Row]) -> None:
    if path.suffix == ".parquet":
        write_parquet(path, rows)
        return
    with path.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        file.flush()
        os.fsync(file.fileno())


def _check_text(problem: Problem) -> None:
    texts = [problem.prompt] if isinstance(problem.prompt, str) else [m["content"] for m in problem.prompt]
    try:
        "".join([*texts, problem.answer or ""]).encode()
    except UnicodeEncodeError as error:
        raise DataError(f"problem {problem.id}: it holds half a surrogate pair, which is no character") from error


def _kind_of(values: Iterable[Any]) -> str | None:
    """The one type of a column, as Arrow would hold it: ``str``, ``list[int]``; None for mixed, nested and empty ones.

    >>> _kind_of([1, None, 2]), _kind_of([1, "2"]), _kind_of([["a"], []]), _kind_of([{"a": 1}])
    ('int', None, 'list[str]', None)
    """
    given = [value for value in values if value is not None]
    kinds = {_one_kind(value) for value in given if value != []}
    found = kinds.pop() if len(kinds) == 1 else "mixed"
    alike = found.startswith("list") or [] not in given  # an empty list goes with lists only
    return found if found != "mixed" and alike else None


def _one_kind(value: Any) -> str:
    if isinstance(value, str):
        return "str" if value.isascii() or not any("\ud800" <= c <= "\udfff" for c in value) else "mixed"
    if isinstance(value, int) and not isinstance(value, bool):
        return "int" if -(2**63) <= value < 2**63 else "mixed"
    if isinstance(value, list | tuple):
        inner = _kind_of(value)
        return "mixed" if inner is None or None in value else f"list[{inner}]"
    return type(value).__name__ if isinstance(value, bool | float) else "mixed"
