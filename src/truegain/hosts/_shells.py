"""A reward as each host calls it: what comes in becomes problems and texts, what goes out is in the host's terms."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from truegain.core.errors import WiringError
from truegain.core.types import Abstain, Problem
from truegain.hosts.data import RECORD, from_verl_row, problem_of
from truegain.tasks._file_rows import is_message

if TYPE_CHECKING:
    from truegain.hosts.rewards import Reward

ABSTAINED = "truegain_abstained"
_OF_TRL = ("trainer_state", "log_metric", "log_extra", "environments")
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrlReward:
    """``f(prompts, completions, **columns) -> list[float | None]``; TRL logs it under its ``__name__``."""

    reward: Reward
    name: str

    @property
    def __name__(self) -> str:
        """What the host logs it under."""
        return self.name

    def __call__(
        self, prompts: Sequence[Any], completions: Sequence[Any], completion_ids: Any = None, **columns: Any
    ) -> list[float | None]:
        """Judge a batch. Keywords only, as TRL calls it; columns are the data set's."""
        rest = {name: values for name, values in columns.items() if name not in _OF_TRL}
        _check_lengths({"completions": completions, "prompts": prompts, **rest})
        texts = [_text(completion) for completion in completions]
        rows = [{name: values[i] for name, values in rest.items()} | {"prompt": p} for i, p in enumerate(prompts)]
        self.reward.check(sorted(rest), RECORD in rest)
        # A function is given the columns as they are, be they images; the others judge problems.
        own = self.reward.kind == "trl"
        problems = [] if own else [problem_of(row, f"row {i}")[1] for i, row in enumerate(rows)]
        given = {"prompts": prompts, "completions": completions, "completion_ids": completion_ids, **_all(rest, rows)}
        if completion_ids is None:
            del given["completion_ids"]
        said, logged = self.reward.judged(problems, texts, given if own else None)
        failed = _tell(self.reward, said)
        if (metric := columns.get("log_metric")) is not None:
            for name, value in logged.get("metrics", {}).items():
                metric(name, value)
            metric(f"truegain/abstained/{self.name}", failed / max(len(said), 1))
        if (extra := columns.get("log_extra")) is not None:
            for name, values in logged.get("extra", {}).items():
                extra(name, values)
        return [None if isinstance(one, Abstain) else one for one in said]


@dataclass(frozen=True)
class VerlReward:
    """``compute_score(data_source, solution_str, ground_truth, extra_info, **kw)``, the same keys for each sample."""

    reward: Reward
    name: str
    abstained: float

    @property
    def __name__(self) -> str:
        """What the host logs it under."""
        return self.name

    def __call__(
        self, data_source: Any, solution_str: str, ground_truth: Any, extra_info: Any = None, **more: Any
    ) -> dict[str, float]:
        """Judge one completion. ``more`` goes to a function in verl's signature, as far as JSON holds it."""
        plain = {name: value for name, value in more.items() if isinstance(value, str | int | float)}
        info: Mapping[str, Any] = extra_info if isinstance(extra_info, Mapping) else {}
        self.reward.check([*info, "ground_truth"], RECORD in info)
        row = {"prompt": _prompt_in(info), "data_source": data_source, "extra_info": dict(info)}
        judged = {"ground_truth": ground_truth}
        _, problem = from_verl_row({**info, **row, "reward_model": judged}, "the sample")
        shown = {"data_source": data_source, "solution_str": solution_str, "ground_truth": ground_truth}
        columns = {name: [value] for name, value in {**plain, **shown, "extra_info": extra_info}.items()}
        (said,) = self.reward.score([problem], [solution_str], columns if self.reward.kind == "verl" else None)
        _tell(self.reward, [said])
        gone = isinstance(said, Abstain)
        return {"score": self.abstained if gone else said, ABSTAINED: float(gone)}


class Abstained(Exception):
    """A reward could not judge; the message says why. verifiers records it on the trace."""


@dataclass(frozen=True)
class VerifiersReward:
    """``async f(trace, task)``: a float, or for an abstaining metric ``{"NAME_abstained": 1.0}``."""

    reward: Reward
    name: str
    metric: bool = False

    @property
    def __name__(self) -> str:
        """What the host logs it under."""
        return self.name

    async def __call__(self, trace: Any, task: Any) -> float | dict[str, float]:
        """Judge a trace by its last reply. The worker is waited for off the event loop."""
        problem = problem_from(task, self.reward)
        (said,) = await asyncio.to_thread(self.reward.score, [problem], [trace.last_reply])
        if not isinstance(said, Abstain):
            return said
        trace.info.setdefault("truegain_abstained", {})[self.name] = said.reason
        if self.metric:
            return {f"{self.name}_abstained": 1.0}
        raise Abstained(said.reason)


def problem_from(task: Any, reward: Reward | None = None) -> Problem:
    """The problem in a v1 task's data: ours as it was, or its prompt and answer, the other fields as meta.

    Raises WiringError where ``reward`` cannot judge it.
    """
    row = {name: value for name, value in task.model_dump(mode="json").items() if value is not None}
    if reward is not None:
        reward.check(sorted(row), RECORD in row)
    row = {"answer": row["ground_truth"], **row} if "ground_truth" in row else row
    if not isinstance(row.get("prompt"), str) and not all(map(is_message, row.get("prompt") or [None])):
        row["prompt"] = task.prompt_text or "?"
    return problem_of(row, f"task {row.get('id') or row.get('idx', '')}")[1]


def _check_lengths(columns: Mapping[str, Any]) -> None:
    """Raise WiringError for a column without an entry for each of the completions, which come first."""
    count = len(columns["completions"])
    for name, values in columns.items():
        if isinstance(values, str) or not hasattr(values, "__len__"):
            raise WiringError(f"the column {name!r} is a {type(values).__name__}; it needs a list of {count} entries")
        if len(values) != count:
            raise WiringError(f"the column {name!r} has {len(values)} entries for {count} completions")


def _text(completion: Any) -> str:
    """A completion of TRL's as text: itself, or what the policy wrote in its messages."""
    if isinstance(completion, str):
        return completion
    own = [message.get("content") for message in completion if message.get("role", "assistant") == "assistant"]
    return "\n".join(text for text in own if isinstance(text, str))


def _all(columns: Mapping[str, Sequence[Any]], rows: Sequence[Mapping[str, Any]]) -> dict[str, Sequence[Any]]:
    """The columns with those that only ``truegain`` holds."""
    if RECORD not in columns:
        return dict(columns)
    metas = [problem_of(row)[1].meta for row in rows]
    held = {name for meta in metas for name in meta} - set(columns) - {"prompt", "completion"}
    given = {name: values for name, values in columns.items() if name != RECORD}
    return given | {name: [meta.get(name) for meta in metas] for name in sorted(held)}


def _prompt_in(info: Mapping[str, Any]) -> Any:
    """What stands for the prompt, which verl does not hand to a scorer."""
    return next((info[key] for key in ("prompt", "question", "problem") if isinstance(info.get(key), str)), "?")


_TOLD: set[tuple[str, str]] = set()


def _tell(reward: Reward, said: Sequence[float | Abstain]) -> int:
    """Count the abstentions; each reason is logged once."""
    gone = [one.reason for one in said if isinstance(one, Abstain)]
    for reason in gone:
        kind = (reward.source, re.sub(r"\d+", "0", reason)[:200])
        if kind not in _TOLD and len(_TOLD) < 1000:
            _TOLD.add(kind)
            _log.warning("the reward %s abstains: %s", reward.name, reason)
    return len(gone)
