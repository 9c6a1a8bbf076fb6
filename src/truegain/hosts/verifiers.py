"""verifiers 0.4: our rewards on anybody's taskset, and our tasks as a taskset.

    [env.taskset.task.rewards.right]
    fn = "truegain.hosts.verifiers:math"        # what stands behind the colon is a reward, see `Reward.of`
    weight = 1.0

verifiers reads ``fn`` as an attribute of this module, so each reward is one; `plugged` says how it is spelled.
Traces are read by `truegain.hosts.traces`, which needs no verifiers.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

try:
    import verifiers.v1 as vf  # pyright: ignore[reportMissingImports]
except ImportError as error:
    raise ImportError("truegain.hosts.verifiers needs verifiers 0.4: pip install 'truegain[verifiers]'") from error

from truegain.core.errors import DataError, SettingError
from truegain.core.types import Problem, Split
from truegain.hosts._component import ComponentReward, component, read_knob, registry
from truegain.hosts.data import for_verifiers, from_record, from_trl, problems_of, record_of
from truegain.hosts.package import CHECKED_BY
from truegain.hosts.rewards import Reward, VerifiersReward
from truegain.hosts.traces import read_traces, rollouts_of

__all__ = ["TruegainTaskset", "component", "plugged", "read_traces", "rollouts_of", "to_taskset"]

_KNOBS: dict[str, Any] = {"fact": str, "deadline": float, "workers": int, "name": str}


def plugged(spelled: str) -> VerifiersReward | ComponentReward:
    """The reward or metric that ``fn = "truegain.hosts.verifiers:SPELLED"`` names.

    ``SPELLED`` is a source of `Reward.of`, with ``|`` for each colon, as verifiers splits at the last one:
    ``exact``, ``math``, ``sort,level=3``, ``gym|leg_counting``, ``my_rewards.py|score``. ``;KEY=VALUE`` behind it sets
    fact, deadline, workers or name. A score or reward component is spelled ``room.name``, its knobs and ``;of=TASK``
    behind it, see `component`. ``metric.`` before it all makes one for ``metrics``, which is left out where it
    abstains. Raises SettingError for what cannot be loaded.
    """
    source, *settings = spelled.removeprefix("metric.").split(";")
    metric = spelled.startswith("metric.")
    if source in registry():
        return _component(spelled, source, settings, metric)
    knobs: dict[str, Any] = {}
    for setting in settings:
        key, equals, text = setting.partition("=")
        if key not in _KNOBS or not equals:
            raise SettingError(f"{spelled!r}: {setting!r} is no setting; write ;KEY=VALUE with {', '.join(_KNOBS)}")
        try:
            knobs[key] = _KNOBS[key](text)
        except ValueError:
            raise SettingError(f"{spelled!r}: {key} cannot be {text!r}") from None
    reward = Reward.of(source.replace("|", ":"), **knobs)
    return reward.as_verifiers(metric=metric)


def _component(spelled: str, name: str, settings: list[str], metric: bool) -> ComponentReward:
    knobs: dict[str, Any] = {}
    of = None
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals:
            raise SettingError(f"{spelled!r}: {setting!r} is no setting; write ;of=TASK or ;KNOB=VALUE")
        if key == "of":
            of = Reward.of(text.replace("|", ":"))
        else:
            knobs[key] = read_knob(registry()[name], key, text)
    return component(name, of=of, metric=metric, **knobs)


@cache
def __getattr__(name: str) -> VerifiersReward | ComponentReward:
    if name.startswith(("_", "pytest")):
        raise AttributeError(name)
    return plugged(name)


class TruegainTaskConfig(vf.TaskConfig):
    """How answers are judged: ``fact`` of the checker's facts is the reward. ``deadline`` as `Reward.of` has it."""

    fact: str = "correct"
    deadline: float | None = None


class TruegainConfig(vf.TasksetConfig):
    """Which problems: the first ``count`` of a ``split`` of the task ``spec``.

    ``spec`` is what `truegain train --task` takes. (``task`` is taken: verifiers keeps the task's config there.)
    """

    spec: str = ""
    split: Split = "train"
    count: int = 1000
    task: TruegainTaskConfig = TruegainTaskConfig()


class TruegainData(vf.TaskData):
    """A row: ``truegain`` is the problem as JSON, ``spec`` the task whose checker judges it. No model sees either."""

    truegain: str
    spec: str
    answer: str | None = None


class TruegainTask(vf.Task[TruegainData, vf.State, TruegainTaskConfig]):
    """One of our problems, judged by its task's checker in a worker process. ``key`` is the problem's own id."""

    @property
    def key(self) -> str:
        """The problem's id: the same in every run, whatever the split is cut to."""
        return self.data.id or self.hash

    @vf.reward(weight=1.0)
    async def checked(self, trace: vf.Trace) -> Any:
        """What the checker says. Raises `Abstained` where it cannot tell, so that the trace fails."""
        return await _judge(self.data.spec, self.config.fact, self.config.deadline)(trace, self.data)

    async def validate(self, runtime: vf.Runtime) -> bool | None:
        """Whether the checker takes the answer key for right; None where the key is no answer (unit tests, none)."""
        if not self.data.answer or "checker=python" in self.data.spec:
            return None
        reward = _judge(self.data.spec, self.config.fact, self.config.deadline).reward
        _, problem = from_record(self.data.truegain)
        (said,) = reward.score([problem], [f"<answer>{self.data.answer}</answer>"])
        return isinstance(said, float) and said >= 1.0


class TruegainTaskset(vf.Taskset[TruegainTask, TruegainConfig]):
    """Our problems as a taskset: those of the config's ``spec``, or in a converted package those of its ``FOLDER``.

    Generated tasks ask in plain English unless the spec says ``chat=false``.

    A task with tools is refused: its tool answers inside the completion, at ``</tool>``, and a v1 harness ends the
    assistant's message there. Raises SettingError, DataError for a spec or a file that cannot be used.
    """

    FOLDER: Path | None = None
    SOURCE: str = ""

    def load(self) -> Iterator[TruegainTask]:
        """The problems in their order, each once."""
        config = self.config
        if self.FOLDER is not None and not config.spec:
            yield from self._converted(self.FOLDER / f"{config.split}.jsonl")
            return
        if not config.spec:
            raise SettingError("the taskset truegain-taskset needs a task: --env.taskset.spec sort,level=6")
        made = for_verifiers(config.spec)
        size = made.size(config.split)
        count = config.count if size is None else min(config.count, size)
        for problem in problems_of(made, config.split, count):
            yield self._task(problem, config.spec, config.split)

    def _converted(self, file: Path) -> Iterator[TruegainTask]:
        for problem in from_trl(file).get(self.config.split, [])[: self.config.count]:
            spec = problem.meta.get(CHECKED_BY)
            if not isinstance(spec, str):
                raise DataError(f"{file}: problem {problem.id} names no task that checks it; convert it again")
            yield self._task(problem, spec, self.config.split)

    def _task(self, problem: Problem, spec: str, split: Split) -> TruegainTask:
        prompt: Any = problem.prompt if isinstance(problem.prompt, str) else [dict(m) for m in problem.prompt]
        held = record_of(problem, split)
        try:
            data = TruegainData(id=problem.id, prompt=prompt, answer=problem.answer, truegain=held, spec=spec)
        except ValueError as error:
            raise DataError(f"problem {problem.id}: verifiers refuses its messages ({str(error)[:200]})") from error
        return TruegainTask(data, self.config.task)


def to_taskset(spec: str, split: Split = "train", count: int = 1000) -> TruegainTaskset:
    """A task or data file as a taskset; its first ``count`` problems of a split.

    Raises SettingError, DataError for a spec or a file that cannot be used.
    """
    for_verifiers(spec)
    return TruegainTaskset(TruegainConfig(id="truegain-taskset", spec=spec, split=split, count=count))


@cache
def _judge(spec: str, fact: str, deadline: float | None) -> VerifiersReward:
    return Reward.of(spec, fact=fact, deadline=deadline).as_verifiers()
