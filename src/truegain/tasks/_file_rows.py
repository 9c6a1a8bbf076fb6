"""The rows of data files as problems: which columns hold what, and what is refused."""

from __future__ import annotations

import json
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

from truegain.core.errors import DataError, nearest
from truegain.core.types import Message, Problem
from truegain.tasks._answers import marked_answer
from truegain.tasks._rows import Row, jsonable, read_rows
from truegain.tasks.python_check import COLUMNS, key_of

PROMPTS = ("prompt", "question")
ANSWERS = ("answer", "solution")
COMPLETION = "completion"


@dataclass(frozen=True)
class _Columns:
    """Which columns hold prompt and answer (unit tests, if ``tests``), and how long a prompt may be."""

    prompt: str
    answer: str | None
    max_prompt_chars: int
    tests: bool


@dataclass(frozen=True)
class Entry:
    """A row: its problem, where it stands, and its completion if it has one."""

    problem: Problem
    place: str
    completion: str | None


def read_entries(
    task: str,
    file: Path,
    completion: str | None,
    prompt: str | None,
    answer: str | None,
    limit: int,
    needed: bool,
    tests: bool,
) -> tuple[list[Entry], bool]:
    """All rows of a file, and whether all answers stand after ``####``."""
    entries: list[Entry] = []
    columns: _Columns | None = None
    hashed = 0
    for place, row in read_rows(file):
        columns = columns or _Columns(*_chosen(file, place, row, prompt, answer, needed, tests), limit, tests)
        where = f"{file}, {place}"
        entries.append(Entry(_problem(task, where, row, columns), where, _completion(where, row, completion)))
        hashed += columns.answer is not None and "####" in str(row[columns.answer])
    if not entries:
        raise DataError(f"{file}: no rows; it needs one row per problem")
    return entries, hashed == len(entries)


def _chosen(
    file: Path, place: str, row: Row, prompt: str | None, answer: str | None, needs_answer: bool, tests: bool
) -> tuple[str, str | None]:
    """Which columns of the first row hold the prompt and the answer."""
    there = f"the columns are {', '.join(map(str, row)) or 'none'}"
    prompt = prompt or next((name for name in PROMPTS if name in row), None)
    if prompt is None or prompt not in row:
        near = nearest(prompt or "prompt", set(row))
        wanted = repr(prompt) if prompt else "'prompt' or 'question'"
        raise DataError(f"{file}, {place}: no column {wanted}{near}; {there}; rename one or set prompt_column=")
    given = answer
    answer = answer or next((name for name in (COLUMNS if tests else ANSWERS) if name in row and name != prompt), None)
    if (given is not None and given not in row) or (answer is None and needs_answer):
        usual = "tests" if tests else "answer"
        wanted = repr(given) if given else " or ".join(map(repr, COLUMNS if tests else ANSWERS))
        near = nearest(given or usual, set(row) - {prompt})
        mend = "rename one, set answer_column=, or judge by a reward function"
        raise DataError(f"{file}, {place}: no column {wanted}{near}; {there}; {mend}")
    return prompt, answer


def _problem(task: str, place: str, row: Row, columns: _Columns) -> Problem:
    """One row as a problem. ``place`` is file and line, for errors."""
    for name in (columns.prompt, columns.answer):
        if name is not None and name not in row:
            raise DataError(f"{place}: no column {name!r}; the columns are {', '.join(map(str, row)) or 'none'}")
    prompt = _prompt(place, columns, row[columns.prompt])
    meta = {"task": task, **{str(key): jsonable(value) for key, value in row.items() if key != columns.prompt}}
    answer = None
    if columns.answer is not None and columns.tests:
        answer = key_of(place, columns.answer, row)
    elif columns.answer is not None:
        answer = gold(place, columns.answer, row[columns.answer])
    return Problem(f"{task}-{digest(place, prompt).hex()}", prompt, answer, meta)


def _prompt(place: str, columns: _Columns, value: Any) -> str | tuple[Message, ...]:
    """The prompt, checked: text or messages, not empty, not too long."""
    name = columns.prompt
    if isinstance(value, list) and value and all(is_message(message) for message in value):
        prompt = tuple({"role": message["role"], "content": message["content"]} for message in value)
        length = sum(len(message["content"]) for message in prompt)
    elif isinstance(value, str):
        prompt, length = value, len(value)
    else:
        kind = "null" if value is None else f"a {type(value).__name__}"
        raise DataError(f"{place}: {name!r} is {kind}; it must be a string or a list of {{role, content}} messages")
    if length > columns.max_prompt_chars:
        raise DataError(
            f"{place}: {name!r} has {length} characters, more than max_prompt_chars={columns.max_prompt_chars}; "
            "shorten the row or raise the bound"
        )
    if length == 0 or (isinstance(prompt, str) and not prompt.strip()):
        raise DataError(f"{place}: {name!r} is empty; remove the row or fill it in")
    return prompt


def is_message(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(value.get(key), str) for key in ("role", "content"))


def gold(place: str, name: str, value: Any) -> str:
    """The final answer that the answer column states."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        kind = "null" if value is None else f"a {type(value).__name__}"
        raise DataError(f"{place}: {name!r} is {kind}; it must be a string or a number")
    marked = marked_answer(str(value))
    return str(value).strip() if marked is None else marked


def _completion(place: str, row: Row, named: str | None) -> str | None:
    """The completion to learn that a row has: text, or the content of one message. It must have one if it is named."""
    value = row.get(named or COMPLETION)
    if isinstance(value, list) and len(value) == 1 and is_message(value[0]):
        value = value[0]["content"]
    if isinstance(value, str) and value.strip():
        return value
    if named is None:
        return None
    if named not in row:
        there = f"the columns are {', '.join(map(str, row)) or 'none'}"
        raise DataError(f"{place}: no column {named!r}{nearest(named, set(row))}; {there}; set completion_column=")
    raise DataError(f"{place}: {named!r} holds no completion; it must be text that is not empty, or one message")


def digest(place: str, prompt: str | tuple[Message, ...]) -> bytes:
    """Twelve bytes of the prompt's content, white space apart: its identity, and what its split depends on."""
    parts = [("", prompt)] if isinstance(prompt, str) else [(m["role"], m["content"]) for m in prompt]
    text = json.dumps([[role, " ".join(content.split())] for role, content in parts], ensure_ascii=False)
    try:
        return blake2b(text.encode(), digest_size=12).digest()
    except UnicodeEncodeError as error:
        raise DataError(f"{place}: the prompt holds half a surrogate pair, which is no character") from error
