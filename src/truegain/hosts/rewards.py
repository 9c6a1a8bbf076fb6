"""Any of our rewards as a TRL reward function, a verl ``compute_score`` or a verifiers reward, from one object.

    reward = Reward.of("sort")                  # a task's checker
    reward = Reward.of("my_rewards.py:score")   # a function, in TRL's or verl's signature
    GRPOTrainer(reward_funcs=[reward.as_trl()], ...)

A reward is loaded and called in worker processes, each completion within a deadline. What crashes, hangs or cannot be
judged is an abstention with its reason, never a silent 0; each host is told in its own way. Imports no host.
"""

from __future__ import annotations

import logging
import math
import os
import re
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Literal

from truegain.core.errors import RunError, SettingError, WiringError, nearest
from truegain.core.types import Abstain, Problem, Rollout
from truegain.hosts._pool import Pool
from truegain.hosts._shells import ABSTAINED, Abstained, TrlReward, VerifiersReward, VerlReward
from truegain.hosts._sources import Kind, check_settings, kind_of, named, short_name
from truegain.rollout import _reward_model_worker
from truegain.runtime import Result, Workers
from truegain.tasks import _reward_worker
from truegain.tasks._rows import jsonable
from truegain.tasks.functions import columns_of, without_end_marks
from truegain.tasks.keys import CHECKERS

__all__ = ["ABSTAINED", "Abstained", "Reward", "TrlReward", "VerifiersReward", "VerlReward"]

START = 600.0
"""Seconds that loading a data file or a reward model may take, once per worker."""
_WORKERS: dict[Kind, str] = {"task": _reward_worker.__file__, "model": _reward_model_worker.__file__}
DEADLINES: Mapping[str, float] = {"task": 90.0, "trl": 30.0, "verl": 30.0, "model": 60.0}
"""Seconds. A task's checker has deadlines of its own, of a few seconds; the one here is for what they do not hold."""
_LOCK = threading.Lock()
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Reward:
    """A reward by name. Made by `Reward.of`; picklable: what is sent to another process starts workers of its own.

    ``source`` is what `of` was given, ``kind`` what that turned out to be. ``fact`` names what of a task's facts is the
    reward. ``deadline`` bounds one completion, in seconds (`DEADLINES` unless it is given); a TRL function is called
    once per batch, which it then bounds. ``workers`` is the most processes that judge at once, ``memory_mb`` what calls
    may add to the memory of each (MiB; no bound by default, as a model on a GPU reserves far more than it uses).
    """

    source: str
    kind: Kind
    name: str
    fact: str = "correct"
    deadline: float = 90.0
    workers: int = 1
    memory_mb: float | None = None
    needs: tuple[str, ...] = ()

    @staticmethod
    def of(
        source: str | os.PathLike[str] | Callable[..., Any],
        *,
        name: str | None = None,
        fact: str = "correct",
        deadline: float | None = None,
        workers: int | None = None,
        memory_mb: float | None = None,
    ) -> Reward:
        """The reward that ``source`` names; a worker loads it here and now, so that what cannot be loaded says so.

        ``exact`` or ``math``: the final answer against the row's. A task's checker, as `truegain train --task` names
        it: ``sort``, ``data.jsonl,checker=math``, ``gym:leg_counting``. A reward function, as ``path.py:fn``,
        ``pkg.mod:fn``, ``pkg.mod.fn`` or itself, in TRL's or verl's signature. The folder of a reward model or of an
        ensemble, whose mean it is.

        Raises SettingError where it cannot be loaded, is a function of neither signature, or a setting does not fit.
        """
        text = named(source)
        check_settings(name, fact, deadline, workers, memory_mb)
        kind = kind_of(text)
        if kind != "task" and fact != "correct":
            raise SettingError(f"fact={fact!r}: {text} is no task's checker, which alone finds more than one number")
        late = DEADLINES[kind] if deadline is None else deadline
        # Each worker of a gym task holds a worker of its own, a model's its weights; a batch of TRL's is one call.
        many = workers or (1 if kind != "task" or "gym:" in text else min(4, os.cpu_count() or 1))
        made = Reward(text, kind, name or short_name(text), fact, late, many, memory_mb)
        described = made._described() if kind != "model" else made._loaded()
        supplied = described.get("supplies")
        if supplied is not None and fact not in supplied:
            near = nearest(fact, list(supplied))
            raise SettingError(f"the reward {text!r} gives no fact {fact!r}{near}; it gives {', '.join(supplied)}")
        return _with(made, kind=described.get("kind", kind), needs=tuple(described.get("needs", ())))

    def score(
        self, problems: Sequence[Problem], texts: Sequence[str], columns: Mapping[str, Sequence[Any]] | None = None
    ) -> list[float | Abstain]:
        """One finite number or abstention for each completion; ``problems[i]`` is the problem of ``texts[i]``.

        ``columns`` are what a TRL function is given; by default those of `columns_of`.
        Raises WiringError for a column that a function requires and is not given, RunError where it does not return
        one entry per completion.
        """
        return self.judged(problems, texts, columns)[0]

    def facts(self, problem: Problem, text: str) -> Mapping[str, float] | Abstain:
        """All that a task's checker finds which is a number; for any other reward the number as ``score``."""
        if self.kind != "task":
            (said,) = self.score([problem], [text])
            return said if isinstance(said, Abstain) else {"score": said}
        (answer,) = self._pool.ask([{**self._payload(problem, text), "fact": None}], self.deadline)
        given = answer.reason if isinstance(answer, Abstain) else answer.value["rewards"][0].get("error")
        if given is not None or isinstance(answer, Abstain):
            return Abstain(f"{self.name}: {given}")
        return answer.value["rewards"][0]["facts"]

    def as_trl(self) -> TrlReward:
        """A function for ``reward_funcs``: None where it abstains, which TRL takes out of the baseline.

        It logs ``truegain/abstained/NAME``, the share of abstentions in the batch.
        """
        return TrlReward(self, self.name)

    def as_verl(self, *, abstained: float | Literal["drop"]) -> VerlReward:
        """A ``compute_score`` that returns ``score`` and ``truegain_abstained`` (0.0 or 1.0) for every sample.

        verl has no way to leave a sample out, so an abstention is scored ``abstained`` and marked. ``"drop"`` is NaN,
        which our estimators for verl leave out, and verl's own do not. There is no default: 0.0 is a wrong answer.
        Raises SettingError for what is neither.
        """
        if abstained != "drop" and (isinstance(abstained, bool) or not isinstance(abstained, int | float)):
            raise SettingError(f'abstained={abstained!r}: it is a number, or "drop", which is NaN')
        return VerlReward(self, self.name, math.nan if abstained == "drop" else float(abstained))

    def as_verifiers(self, *, metric: bool = False) -> VerifiersReward:
        """A function of ``(trace, task)`` for a v1 task's rewards, or with ``metric`` for its metrics.

        An abstaining reward raises `Abstained`: verifiers records the error, leaves the reward None and marks the
        trace as failed. An abstaining metric is left out, and ``NAME_abstained`` is 1.0 instead.
        """
        return VerifiersReward(self, self.name, metric)

    @property
    def __name__(self) -> str:
        """What TRL logs it under."""
        return self.name

    def __call__(self, prompts: Any = None, completions: Any = None, **columns: Any) -> list[float | None]:
        """As `as_trl`, so that ``reward_funcs=reward`` works too. Raises SettingError where no host of TRL's calls."""
        if prompts is None or completions is None:
            raise SettingError(
                f"the reward {self.name} was called without prompts and completions: give the host reward.as_trl(), "
                "reward.as_verl(abstained=0.0) or reward.as_verifiers()"
            )
        return self.as_trl()(prompts, completions, **columns)

    def close(self) -> None:
        """End the workers; they start again when they are needed. Also happens when the object is collected."""
        self._pool.close()

    def __reduce__(self) -> tuple[Any, ...]:
        """Travel without the workers."""
        return Reward, tuple(getattr(self, one.name) for one in fields(self))

    @property
    def _pool(self) -> Pool:
        with _LOCK:  # one pool, whoever asks first
            return self.__dict__.setdefault("pool", Pool(self._start, self.workers))

    def _start(self) -> Workers:
        if self.kind not in _WORKERS:
            adapter = f"{_reward_worker.__file__}:function"
            return Workers(self.source, 1, self.deadline, self.memory_mb, adapter=adapter)
        file = _WORKERS[self.kind]
        return Workers(
            f"{file}:{self.kind}",
            1,
            self.deadline,
            self.memory_mb,
            adapter=f"{file}:ready",
            start_deadline=START,
            environment={_reward_worker.SPEC: self.source},
        )

    def _loaded(self) -> Mapping[str, Any]:
        """Score an empty completion, so that a model which cannot be loaded says so now."""
        said = self.score([Problem("", "?")], [""])
        if isinstance(said[0], Abstain):
            raise SettingError(f"the reward model {self.source} cannot be used: {said[0].reason}")
        return {}

    def _described(self) -> Mapping[str, Any]:
        asked = {"do": "describe", "spec": self.source}
        try:
            (answer,) = self._pool.ask([asked], 120.0)
        except SettingError as error:
            reason = re.sub(r"^(?:Setting|Data)Error: ", "", str(error))
            more = "; exact, math and python check any row's answer" if reason.startswith("unknown task") else ""
            raise SettingError(f"the reward {self.source!r} cannot be loaded: {reason}{more}") from None
        if isinstance(answer, Abstain):
            raise SettingError(f"the reward {self.source!r} cannot be loaded: {answer.reason}")
        if answer.value.get("turns"):
            _log.info("%s: a task with tools; its checker reads the whole text, calls and results", self.source)
        if "kind" in answer.value and answer.value["kind"] is None:
            raise SettingError(
                f"{self.source!r} takes {', '.join(answer.value['named']) or 'nothing'}; a reward takes completions "
                "(TRL) or solution_str and ground_truth (verl)"
            )
        return answer.value

    def judged(
        self, problems: Sequence[Problem], texts: Sequence[str], columns: Mapping[str, Sequence[Any]] | None = None
    ) -> tuple[list[float | Abstain], Mapping[str, Any]]:
        """What it says, and what a TRL function logged."""
        if not texts:
            return [], {}
        if self.kind == "trl" and columns is None:
            columns = columns_of(problems, [*map(_rollout, problems, texts)])
        if columns is not None:
            payloads = [{"do": "batch", "columns": jsonable(columns)}]
        else:
            payloads = [self._payload(problem, text) for problem, text in zip(problems, texts, strict=True)]
        answers = self._pool.ask(payloads, self.deadline)
        width = len(texts) // len(payloads)
        found = [one for answer in answers for one in self._read(answer, width)]
        logged = answers[0].value if self.kind == "trl" and isinstance(answers[0], Result) else {}
        return found, {key: logged.get(key, {}) for key in ("metrics", "extra")}

    def _payload(self, problem: Problem, text: str) -> dict[str, Any]:
        prompt = problem.prompt if isinstance(problem.prompt, str) else [dict(m) for m in problem.prompt]
        if self.kind == "model":
            return {"do": "batch", "folder": self.source, "prompts": [prompt], "texts": [text]}
        if self.kind == "task":
            row = {"id": problem.id, "prompt": prompt, "answer": problem.answer, "meta": jsonable(problem.meta)}
            return {"do": "batch", "spec": self.source, "fact": self.fact, "problems": [row], "texts": [text]}
        meta = problem.meta
        info = meta.get("extra_info")
        row = {
            "data_source": meta.get("data_source", meta.get("task", "")),
            "solution_str": without_end_marks(text),
            "ground_truth": problem.answer,
            "extra_info": info if isinstance(info, Mapping) else dict(meta),
        }
        return {"do": "batch", "columns": {name: [jsonable(value)] for name, value in row.items()}}

    def _read(self, answer: Result | Abstain, count: int) -> list[float | Abstain]:
        if isinstance(answer, Abstain):
            return [Abstain(f"{self.name}: {answer.reason}")] * count
        given = answer.value
        if "missing" in given:
            name = given["missing"][0]
            raise WiringError(
                f"reward {self.source!r} needs the column {name!r}{nearest(name, given['offered'])}; the data offers "
                f"{', '.join(given['offered']) or 'no column'}"
            )
        wanted = f"one number or None for each of the {count} completions"
        if "shape" in given:
            raise RunError(f"reward {self.source!r} returned {given['shape']}; it must return a list, {wanted}")
        if len(given["rewards"]) != count:
            raise RunError(f"reward {self.source!r} returned {len(given['rewards'])} rewards; it must return {wanted}")
        return [self._number(value) for value in given["rewards"]]

    def _number(self, value: Any) -> float | Abstain:
        if value is None:
            return Abstain(f"{self.name}: returned None")
        if isinstance(value, dict):
            return Abstain(
                f"{self.name}: {value.get('error') or 'returned a ' + str(value.get('type')) + ', no number'}"
            )
        return float(value) if math.isfinite(value) else Abstain(f"{self.name}: returned {value}")

    def check(self, offered: Sequence[str], recorded: bool) -> None:
        """Refuse rows that a task cannot judge. Raises WiringError naming what they lack."""
        keyed = self.kind == "task" and self.source in CHECKERS
        lacks = [name for name in self.needs if name not in offered]
        if keyed and not {"answer", "solution", "ground_truth"} & set(offered):
            lacks = ["answer"]
        if lacks and not recorded:
            raise WiringError(
                f"reward {self.source!r} needs the column {lacks[0]!r}{nearest(lacks[0], list(offered))}, and the data "
                f"offers {', '.join(offered) or 'no column'}; `truegain convert` makes data that it can judge"
            )


def _with(reward: Reward, **changed: Any) -> Reward:
    """A changed copy that goes on with the same workers."""
    made = replace(reward, **changed)
    made.__dict__["pool"] = reward._pool
    return made


def _rollout(problem: Problem, text: str) -> Rollout:
    return Rollout(problem, (), (), (), text, "stop", ())
