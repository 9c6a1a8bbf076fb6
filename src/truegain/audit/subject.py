"""The reward under audit, asked in worker processes with deadlines: what it says of a completion, or why nothing."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from truegain.core.errors import SettingError, WiringError, nearest
from truegain.core.types import Abstain, Problem, Rollout
from truegain.rollout import _reward_model_worker
from truegain.runtime import Result, Workers
from truegain.tasks import _reward_worker
from truegain.tasks._rows import jsonable
from truegain.tasks.functions import LATE, columns_of, without_end_marks

Kind = Literal["task", "trl", "verl", "model"]
How = Literal["batch", "alone", "threads"]
Row = tuple[Problem, str]
_WORKER = Path(_reward_worker.__file__)
_MODEL = Path(_reward_model_worker.__file__)
MEMORY_MB = 8192.0
CHUNK_SECONDS = 2.0
MAX_CHUNK = 64
BATCH = 8
"""Rows of a chunk before it is known how long one takes, and of those that are compared batch by batch."""


@dataclass(frozen=True)
class Said:
    """What a reward said of one completion.

    ``value`` is None where it gave no number: then ``failure`` says how (``none``: it returned None, which TRL takes
    for "does not apply"; ``raised``, ``late``, ``died``, ``no number``) and ``why`` in words. ``seconds`` it took.
    """

    value: float | None
    failure: str | None = None
    why: str = ""
    seconds: float = math.nan

    @property
    def failed(self) -> bool:
        """Whether it gave neither a number nor a plain None."""
        return self.failure is not None and self.failure != "none"


class Subject:
    """A reward: a task's checker by ``spec``, a function by ``path`` (TRL's or verl's signature), or a reward model.

    ``fact`` names what of a task's facts is the reward. Scores of a reward model (a folder with a head, or an
    ensemble's, whose mean it is) compare completions of one prompt only: `measure_from` makes them distances from the
    prompt's own reference. ``deadline`` (seconds) bounds one completion, ``count`` is the
    number of worker processes. The reward is loaded and called there only.

    Raises SettingError when it cannot be loaded, or is a function of neither signature; WiringError, when asked, for a
    column that it requires and the data does not have.
    """

    def __init__(
        self,
        name: str,
        *,
        is_task: bool,
        is_model: bool = False,
        fact: str = "correct",
        deadline: float = 5.0,
        count: int = 2,
    ) -> None:
        """Start the workers."""
        self.name, self.fact, self.deadline, self.count = name, fact, deadline, count
        self.is_task, self.is_model = is_task, is_model
        self._origin: dict[str, float] = {}
        self.pace = CHUNK_SECONDS / BATCH
        self._unpaced = True
        self.keys: set[tuple[str, ...]] = set()
        self._workers = self._start()
        self.kind: Kind = "task" if is_task else "model" if is_model else self._described()

    def fresh(self) -> Subject:
        """The same reward in processes of its own, which have been asked nothing yet."""
        other = Subject(
            self.name, is_task=self.is_task, is_model=self.is_model, fact=self.fact, deadline=self.deadline, count=1
        )
        other.pace, other._unpaced, other._origin = self.pace, False, self._origin
        return other

    def measure_from(self, references: Sequence[Row]) -> None:
        """From now on a reward model's scores are distances from these completions of the same prompts."""
        if self.is_model:
            said = self.ask(references)
            found = {problem.id: one.value for (problem, _), one in zip(references, said, strict=True)}
            self._origin = {problem: value for problem, value in found.items() if value is not None}

    def ask(self, rows: Sequence[Row], how: How = "batch", *, size: int | None = None) -> list[Said]:
        """What it says of each (problem, completion). ``size`` bounds the rows of one call, else its pace does.

        Where a call fails as a whole, its rows are asked again one by one, so that the blame falls on the row.
        """
        if size == 1:
            return self._singly(rows, how)
        width = size or max(1, min(MAX_CHUNK, int(CHUNK_SECONDS / max(self.pace, 1e-4))))
        chunks = [rows[i : i + width] for i in range(0, len(rows), width)]
        limit = self.deadline + 4 * CHUNK_SECONDS
        answers = self._workers.map([self._payload(chunk, how) for chunk in chunks], limit)
        said = [self._read(chunk, answer) for chunk, answer in zip(chunks, answers, strict=True)]
        broken = [i for i, found in enumerate(said) if found is None]
        single = [row for i in broken for row in chunks[i]]
        again = iter(self._singly(single, "alone" if how == "batch" else how))
        for i in broken:
            said[i] = [next(again) for _ in chunks[i]]
        return [one for found in said for one in found or ()]

    def close(self) -> None:
        """End the workers."""
        self._workers.close()

    def __enter__(self) -> Subject:
        """Give the subject itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """End the workers."""
        self.close()

    def _start(self) -> Workers:
        if self.is_task or self.is_model:
            target = f"{_WORKER}:task" if self.is_task else f"{_MODEL}:model"
            return Workers(target, self.count, self.deadline, MEMORY_MB)
        return Workers(self.name, self.count, self.deadline, MEMORY_MB, adapter=f"{_WORKER}:function")

    def _described(self) -> Kind:
        answer = self._workers.call({"do": "describe"}, 60.0)
        if isinstance(answer, Abstain):
            raise SettingError(f"{self.name!r} cannot be called: {answer.reason}")
        if answer.value["kind"] is None:
            raise SettingError(
                f"{self.name!r} takes {', '.join(answer.value['named']) or 'nothing'}; a reward takes completions "
                "(TRL) or solution_str and ground_truth (verl)"
            )
        return answer.value["kind"]

    def _singly(self, rows: Sequence[Row], how: How) -> list[Said]:
        answers = self._workers.map([self._payload([row], how) for row in rows], self.deadline)
        found: list[Said] = []
        for row, answer in zip(rows, answers, strict=True):
            said = self._read([row], answer)
            if said is None:
                reason = answer.reason if isinstance(answer, Abstain) else "it gave no answer"
                said = [_failed(reason, self.deadline if LATE in reason else math.nan)]
            found += said
        return found

    def _payload(self, rows: Sequence[Row], how: How) -> dict[str, Any]:
        if self.is_model:
            prompts = [p.prompt if isinstance(p.prompt, str) else [dict(m) for m in p.prompt] for p, _ in rows]
            return {"do": how, "folder": self.name, "prompts": prompts, "texts": [text for _, text in rows]}
        if self.is_task:
            problems = [{"id": p.id, "prompt": p.prompt, "answer": p.answer, "meta": jsonable(p.meta)} for p, _ in rows]
            texts = [text for _, text in rows]
            return {"do": how, "spec": self.name, "fact": self.fact, "problems": problems, "texts": texts}
        return {"do": how, "columns": jsonable(self._columns(rows))}

    def _columns(self, rows: Sequence[Row]) -> Mapping[str, list[Any]]:
        if self.kind == "verl":
            return {
                "data_source": [p.meta.get("data_source", p.meta.get("task", "")) for p, _ in rows],
                "solution_str": [without_end_marks(text) for _, text in rows],
                "ground_truth": [p.answer for p, _ in rows],
                "extra_info": [p.meta.get("extra_info") or dict(p.meta) for p, _ in rows],
            }
        rollouts = [Rollout(problem, (), (), (), text, "stop", ()) for problem, text in rows]
        columns = columns_of([problem for problem, _ in rows], rollouts)
        return {name: values for name, values in columns.items() if name != "completion_ids"}

    def _read(self, rows: Sequence[Row], answer: Result | Abstain) -> list[Said] | None:
        """What a call said of its rows; None where it failed as a whole."""
        if isinstance(answer, Abstain):
            return None
        given = answer.value
        if "missing" in given:
            name = given["missing"][0]
            raise WiringError(
                f"reward function {self.name!r} needs the column {name!r}{nearest(name, given['offered'])}; the data "
                f"offers {', '.join(given['offered'])}; add it to --data"
            )
        self.keys |= {tuple(keys) for keys in given.get("keys", ())}
        if len(given.get("rewards", ())) != len(rows):
            return None
        pace = sum(given["seconds"]) / len(rows)
        self.pace = pace if self._unpaced else 0.7 * self.pace + 0.3 * pace
        self._unpaced = False
        said = [_said(value, seconds) for value, seconds in zip(given["rewards"], given["seconds"], strict=True)]
        return [self._from_origin(problem, one) for (problem, _), one in zip(rows, said, strict=True)]

    def _from_origin(self, problem: Problem, said: Said) -> Said:
        if said.value is None or problem.id not in self._origin:
            return said
        return replace(said, value=said.value - self._origin[problem.id])


def _said(value: Any, seconds: float) -> Said:
    if value is None:
        return Said(None, "none", "it returned None", seconds)
    if isinstance(value, dict):
        why = value.get("error") or f"it returned a {value.get('type')}, not a number"
        return _failed(str(why), seconds) if "error" in value else Said(None, "no number", why, seconds)
    if not math.isfinite(value):
        return Said(None, "no number", f"it returned {value}", seconds)
    return Said(float(value), seconds=seconds)


def _failed(reason: str, seconds: float) -> Said:
    kind = "late" if LATE in reason or "no verdict within" in reason else "raised"
    if "worker" in reason and kind == "raised":
        kind = "died"
    return Said(None, kind, reason, seconds)
