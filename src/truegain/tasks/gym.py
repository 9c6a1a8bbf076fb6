"""`gym:NAME`: the datasets of reasoning-gym as tasks. Its code runs in a worker process; its scorers are not trusted.

Source: reasoning-gym 0.1.25, https://github.com/open-thought/reasoning-gym.
"""

from __future__ import annotations

import importlib.util
import json
import math
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from hashlib import blake2b
from pathlib import Path
from typing import Any

from truegain.core.errors import DataError, SettingError, nearest
from truegain.core.types import SPLITS, Abstain, Environment, Problem, Rollout, Split
from truegain.runtime import Result, Workers
from truegain.tasks._answers import marked_answer
from truegain.tasks.functions import without_end_marks

PREFIX = "gym:"
MAX_ANSWER = 10_000
"""Characters of an answer that a scorer is asked about; a longer one is none."""
EXACT = 1e-9
"""How far from 1 a scorer's number may be and still mean right."""
MAKING = 60.0
"""Seconds that making one problem may take."""
MEMORY_MB = 4096.0

_WORKER = str(Path(__file__).with_name("_gym_worker.py"))
_TABLE = Path(__file__).with_name("gym_datasets.json")
_FORMAT = "Give only the final answer inside <answer></answer>, in the form that is asked for, and nothing after it."
_FLAGS = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}


@cache
def defects() -> Mapping[str, str]:
    """Datasets that are refused unless asked for, with the reason: what ``benchmarks/survey_gym.py`` found."""
    return json.loads(_TABLE.read_text(encoding="utf-8"))["defective"]


@cache
def names() -> tuple[str, ...]:
    """The datasets that passed the survey, as ``gym:NAME``."""
    return tuple(PREFIX + name for name in json.loads(_TABLE.read_text(encoding="utf-8"))["usable"])


class Gym:
    """One dataset of reasoning-gym. Unlimited: problem ``index`` of a split is a pure function of it, seed and knobs.

    A draw is the dataset's item of a number hashed from (name, seed, split, index, attempt); it is repeated until a
    hash of the question, white space apart, falls into the split: six tenths of all questions are train, two tenths
    each dev and test, whatever the seed and the knobs. So no question is in two splits. A dataset with few questions
    gives them again, under the same id. ``knobs`` are the dataset's own, all but its ``seed`` and ``size``.

    ``score`` asks the dataset's own scorer, in a worker process and within ``deadline`` seconds, about what stands in
    the completion's last ``<answer></answer>`` (reasoning-gym's convention; the prompt tells it). ``score`` is its
    number from 0 to 1, ``correct`` is 1.0 exactly where that is 1. No such block, or one of more than `MAX_ANSWER`
    characters: ``correct`` and ``score`` 0. A scorer that raises, gives no number from 0 to 1 or passes the deadline
    is an abstention.

    ``chat=True`` makes the prompt a user message (its text for models without a chat template), False plain text.
    ``unsafe=True`` admits the datasets that `defects` lists.

    Raises SettingError where reasoning-gym is missing, for unknown names, knobs and values, and for defective datasets.
    """

    stop: tuple[str, ...] = ("</answer>",)

    def __init__(
        self,
        dataset: str,
        *,
        seed: int = 0,
        deadline: float = 5.0,
        chat: bool = True,
        unsafe: bool = False,
        **knobs: Any,
    ) -> None:
        """Have a worker make the dataset once."""
        self.dataset, self.name = dataset, PREFIX + dataset
        if dataset in defects() and not unsafe:
            raise SettingError(f"task {self.name} is refused: {defects()[dataset]}; take it as it is with unsafe=true")
        if not 0 < deadline < math.inf:
            raise SettingError(f"task {self.name}: deadline must be a positive number of seconds, not {deadline!r}")
        self.seed, self.deadline, self.chat = seed, deadline, chat
        self.knobs: Mapping[str, Any] = knobs
        self.knobs = self._described(knobs)

    def problem(self, split: Split, index: int) -> Problem:
        """The index-th problem of a split. Raises IndexError below 0, DataError when none can be made."""
        if split not in SPLITS:
            raise SettingError(f"unknown split {split!r}{nearest(str(split), SPLITS)}; it is train, dev or test")
        if index < 0:
            raise IndexError(f"{self.name}: problem {index} does not exist; indices start at 0")
        made = self._made("problem", seed=self.seed, split=split, index=index)
        if "none" in made:
            raise DataError(
                f"task {self.name}: none of {made['none']} draws gave a {split} problem, as it has few different ones; "
                "take knobs that give more"
            )
        text = f"{made['question'].rstrip()}\n\n{_FORMAT}\n"
        meta = {"task": self.name, **{key: made[key] for key in ("number", "mark", "metadata")}}
        prompt = ({"role": "user", "content": text},) if self.chat else text
        ident = blake2b(f"{made['mark']}\x1f{made['answer']}".encode(errors="surrogatepass"), digest_size=8).hexdigest()
        return Problem(f"{self.name}-{split}-{ident}", prompt, made["answer"], meta)

    @property
    def supplies(self) -> tuple[str, ...]:
        """The columns that its checker fills."""
        return ("correct", "score", "answered")

    def size(self, split: Split) -> int | None:
        """None: there is no last problem."""
        return None

    def score(self, problem: Problem, rollout: Rollout) -> Mapping[str, Any] | Abstain:
        """Facts ``correct``, ``score`` and ``answered``, or an abstention; see the class."""
        found = self.final(problem, rollout.text)
        if found is None:
            return {"correct": 0.0, "score": 0.0, "answered": 0.0}
        value = self._judged(problem, found)
        if isinstance(value, Abstain):
            return Abstain(f"{self.name}: {value.reason}")
        return {"correct": float(value >= 1 - EXACT), "score": value, "answered": 1.0}

    def final(self, problem: Problem, text: str) -> str | None:
        """What stands in the last answer block, stripped; None where there is none or it is too long."""
        end = text.rfind("</answer>")
        found = marked_answer(without_end_marks(text)) if "<answer>" in text[: max(end, 0)] else None
        return found if found is not None and len(found) <= MAX_ANSWER else None

    def environment(self) -> Callable[[], Environment] | None:
        """None: a single turn."""
        return None

    def respond(self, env: Environment, text: str) -> str | None:
        """None: no tools."""
        return None

    def _described(self, knobs: Mapping[str, Any]) -> Mapping[str, Any]:
        found = self._made("describe")
        if "refused" in found:
            raise SettingError(f"task {self.name}: {found['refused']}")
        if found.get("unknown") == "dataset":
            near = nearest(self.dataset, found["legal"])
            raise SettingError(f"unknown task {self.name!r}{near}; reasoning-gym has {' '.join(found['legal'])}")
        if "unknown" in found:
            legal = sorted([*found["legal"], *_OWN, "weight"])
            near = nearest(found["name"], legal)
            raise SettingError(f"task {self.name}: unknown key {found['name']!r}{near}; there are {' '.join(legal)}")
        return found["knobs"]

    def _judged(self, problem: Problem, answer: str) -> float | Abstain:
        """What the scorer says, as a number from 0 to 1. A worker that has not made the problem makes it again."""
        number, mark = problem.meta.get("number"), problem.meta.get("mark")
        if not isinstance(number, int):
            return Abstain(f"problem {problem.id}: not a problem of this task")
        said = self._ask("score", self.deadline, number=number, answer=answer)
        if isinstance(said, Result) and "forgotten" in said.value:
            again = self._ask("recall", MAKING, number=number, mark=mark)
            if isinstance(again, Abstain) or again.value is not True:
                why = again.reason if isinstance(again, Abstain) else "reasoning-gym now makes another one"
                return Abstain(f"problem {problem.id} cannot be made again: {why}")
            said = self._ask("score", self.deadline, number=number, answer=answer)
        return said if isinstance(said, Abstain) else _fraction(said.value.get("score"))

    def _made(self, what: str, **facts: Any) -> dict[str, Any]:
        found = self._ask(what, MAKING, **facts)
        if isinstance(found, Abstain):
            raise DataError(f"task {self.name}: reasoning-gym could not make it: {found.reason}")
        return found.value

    def _ask(self, what: str, deadline: float, **facts: Any) -> Result | Abstain:
        try:
            return _pool().call({"do": what, "name": self.dataset, "knobs": self.knobs, **facts}, deadline)
        except TypeError as error:
            raise SettingError(f"task {self.name}: a knob's value is nothing that JSON can hold: {error}") from None


def _fraction(value: Any) -> float | Abstain:
    """A scorer's number, if it is one from 0 to 1."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        value = float(value) if isinstance(value, bool) else value
    if not isinstance(value, int | float):
        return Abstain(f"the scorer gave a {type(value).__name__}, not a number")
    if not -EXACT <= value <= 1 + EXACT:
        return Abstain(f"the scorer gave {value}, which is not from 0 to 1")
    return min(max(float(value), 0.0), 1.0)


@cache
def _pool() -> Workers:
    """The one worker process that all gym tasks share."""
    if importlib.util.find_spec("reasoning_gym") is None:
        raise SettingError("gym tasks need reasoning-gym, which is not installed: pip install 'truegain[gym]'")
    # Some datasets walk over sets: a fixed hash seed makes their problems the same in every process.
    return Workers(
        f"{_WORKER}:answer",
        1,
        memory_mb=MEMORY_MB,
        adapter=f"{_WORKER}:disarmed",
        environment={"PYTHONHASHSEED": "0"},
    )


def _flag(text: str) -> bool:
    return _FLAGS[text.lower()]


_OWN: Mapping[str, Callable[[str], Any]] = {"seed": int, "deadline": float, "chat": _flag, "unsafe": _flag}


def from_settings(name: str, settings: Sequence[tuple[str, str]]) -> Gym:
    """The task that ``gym:NAME`` and (key, text) pairs name. Raises SettingError, see `Gym`."""
    given: dict[str, Any] = {}
    for key, text in settings:
        try:
            given[key] = _OWN[key](text) if key in _OWN else text
        except (ValueError, KeyError):
            raise SettingError(f"task {name}: {key} cannot be {text!r}") from None
    return Gym(name.removeprefix(PREFIX), **given)
