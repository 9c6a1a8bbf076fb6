"""Completions with a second opinion: labels from a file, or the word of a second verifier."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import Any

from truegain.audit.probes import equal
from truegain.audit.subject import Row, Subject
from truegain.core.errors import DataError, SettingError, nearest
from truegain.core.types import Abstain, Problem
from truegain.tasks._answers import final_answer, same
from truegain.tasks._rows import jsonable, read_rows
from truegain.tasks.math_check import MathCheck, stated

_RIGHT = frozenset({"true", "1", "1.0", "right", "correct", "yes", "good"})
_WRONG = frozenset({"false", "0", "0.0", "wrong", "incorrect", "no", "bad"})
VERIFIERS = ("exact", "math")


@dataclass(frozen=True)
class Evidence:
    """Completions of problems, and for each whether it is right: 1.0, 0.0, or None where nobody knows."""

    rows: Sequence[Row]
    gold: Sequence[float | None]
    source: str
    notes: Sequence[str] = field(default=())

    def by_problem(self) -> dict[str, list[int]]:
        """Row numbers of each problem."""
        found: dict[str, list[int]] = {}
        for i, (problem, _) in enumerate(self.rows):
            found.setdefault(problem.id, []).append(i)
        return found


def read_evidence(path: Path, problems: Sequence[Problem], *, labelled: bool) -> Evidence:
    """Rows of a file: ``completion`` (or ``completions``, a list), ``answer``, ``label`` and ``prompt`` or ``problem``.

    A row whose ``problem`` is the id of one of ``problems``, or whose ``prompt`` is its prompt, belongs to it; else the
    row is a problem of its own, and its further columns are what the reward is given. ``label`` (true or false, 1 or
    0, right or wrong, or a number that is cut at 0.5) must be there when ``labelled``; it may be a list beside
    ``completions``. Raises DataError naming file and line.
    """
    known = {problem.id: problem for problem in problems} | {_prompt(p.prompt): p for p in reversed(problems)}
    rows: list[Row] = []
    gold: list[float | None] = []
    for place, row in read_rows(path):
        where = f"{path}, {place}"
        one = row.get("completion", row.get("text"))
        texts = row.get("completions", None if one is None else [one])
        if texts is None:
            near = nearest("completion", set(row))
            raise DataError(f"{where}: no column 'completion'{near}; the columns are {', '.join(row) or 'none'}")
        texts = texts if isinstance(texts, list) else [texts]
        label = row.get("label")
        if labelled and label is None:
            raise DataError(f"{where}: no column 'label'{nearest('label', set(row))}; it says whether the row is right")
        labels = label if isinstance(label, list) else [label] * len(texts)
        if len(labels) != len(texts):
            raise DataError(f"{where}: {len(labels)} labels for {len(texts)} completions")
        problem = known.get(str(row.get("problem"))) or known.get(_prompt(row.get("prompt"))) or _own(row)
        for text, word in zip(texts, labels, strict=True):
            rows.append((problem, _text(where, text)))
            gold.append(None if word is None else _label(where, word))
    if not rows:
        raise DataError(f"{path}: no rows; it needs one completion per row")
    return Evidence(rows, gold, f"labels of {path.name}" if labelled else f"completions of {path.name}")


def _text(where: str, value: Any) -> str:
    if isinstance(value, list) and value and isinstance(value[-1], Mapping):
        value = value[-1].get("content")
    if not isinstance(value, str):
        raise DataError(f"{where}: a completion is a {type(value).__name__}; it must be text or messages")
    return value


def _label(where: str, value: Any) -> float:
    word = str(value).strip().lower()
    if word in _RIGHT or word in _WRONG:
        return float(word in _RIGHT)
    try:
        return float(float(word) >= 0.5)
    except ValueError:
        raise DataError(f"{where}: label {value!r} is neither true nor false, 1 nor 0, right nor wrong") from None


def _own(row: Mapping[str, Any]) -> Problem:
    """A row as a problem of its own."""
    prompt = row.get("prompt") or row.get("question") or ""
    shown = tuple(prompt) if isinstance(prompt, list) else str(prompt)
    answer = row.get("answer", row.get("solution"))
    left = {"prompt", "completion", "completions", "text", "label"}
    meta = {"task": "file", **{str(k): jsonable(v) for k, v in row.items() if k not in left}}
    told = meta.get("reward_model")
    if answer is None and isinstance(told, dict):
        answer = told.get("ground_truth")
    digest = blake2b(f"{_prompt(prompt)}\x1f{answer}".encode(errors="replace"), digest_size=8).hexdigest()
    return Problem(f"file-{digest}", shown, None if answer is None else str(answer), meta)


def _prompt(prompt: Any) -> str:
    """A prompt as one string that tells prompts apart, white space apart."""
    text = prompt if isinstance(prompt, str) else json.dumps(jsonable(prompt), sort_keys=True)
    return " ".join(text.split())


class Second:
    """A second verifier: ``exact`` (the marked answer, or the last number, equals the key), ``math`` (math-verify),
    a task's checker, or a function. Raises SettingError for what is none of them.
    """

    def __init__(self, name: str, *, is_task: bool, deadline: float = 5.0, cut: float = 0.5) -> None:
        """Start what it needs."""
        self.name, self.cut = name, cut
        self._math = MathCheck() if name == "math" else None
        self._subject = None if name in VERIFIERS else Subject(name, is_task=is_task, deadline=deadline)

    def judge(self, rows: Sequence[Row]) -> list[float | None]:
        """1.0 or 0.0 for each completion, None where it abstains."""
        if self._subject is not None:
            return [None if s.value is None else float(s.value >= self.cut) for s in self._subject.ask(rows)]
        if self._math is None:
            return [_exact(problem, text) for problem, text in rows]
        asked = [(str(problem.answer), stated(text)) for problem, text in rows]
        verdicts = self._math.verdicts(asked)
        unknown = [isinstance(v, Abstain) or v == "bad key" for v in verdicts]
        return [None if no else float(v == "right") for v, no in zip(verdicts, unknown, strict=True)]

    def close(self) -> None:
        """End its workers."""
        for owner in (self._subject, self._math):
            if owner is not None:
                owner.close()


def _exact(problem: Problem, text: str) -> float | None:
    if problem.answer is None:
        return None
    found = final_answer(text, last_number=True) or ""
    whole = text.strip()
    return float(same(found, problem.answer) or same(whole, problem.answer) or equal(found, problem.answer))


def check_second(name: str) -> None:
    """Refuse the name of a verifier that is close to one of ours but is none."""
    near = nearest(name, VERIFIERS)
    if name.isalpha() and name not in VERIFIERS and near:
        raise SettingError(f"no second verifier {name!r}{near}; it is exact, math, a task or path:function")
