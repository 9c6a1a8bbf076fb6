"""TRL-style reward functions, called in a worker process: numbers, or abstentions with their reasons."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from truegain.core.errors import RunError, SettingError, WiringError, nearest
from truegain.core.types import Abstain, Problem, Rollout
from truegain.runtime import Result, Workers
from truegain.runtime.workers import Output
from truegain.tasks._rows import SUFFIXES, jsonable

_ADAPTER = f"{Path(__file__).parent.parent / 'runtime' / '_batch_call.py'}:batched"
_END_MARK = re.compile(r"(?:<\|[^<>|]{1,40}\|>|</s>|<eos>|<pad>|<end_of_turn>)\Z")
_LONGEST_MARK = 44
DEADLINE = 30.0
LATE = "no answer within"


def without_end_marks(text: str) -> str:
    """Drop the end-of-sequence, end-of-turn and padding marks that close a completion.

    >>> without_end_marks("so 4<|im_end|><|endoftext|>")
    'so 4'
    """
    end = kept = len(text)
    while True:
        while end and text[end - 1].isspace():
            end -= 1
        mark = _END_MARK.search(text[max(0, end - _LONGEST_MARK) : end])
        if mark is None:
            return text[:kept]
        kept = end = end - len(mark.group())


def columns_of(problems: Sequence[Problem], rollouts: Sequence[Rollout]) -> dict[str, list[Any]]:
    """What TRL gives a reward function: ``prompts``, ``completions``, ``completion_ids`` and every dataset column.

    Prompts and completions are strings, or lists of messages where the prompt is one; each list has one entry per
    rollout. ``answer`` and ``solution`` are always there: where the data has only one of them, or the task is
    generated, they hold the task's own answer. A column that some rows lack holds None for these.
    """
    columns: dict[str, list[Any]] = {
        name: [problem.meta.get(name) for problem in problems]
        for name in sorted({str(name) for problem in problems for name in problem.meta} - {"prompt", "completion"})
    }
    for name in ("answer", "solution"):
        columns[name] = [problem.meta.get(name, problem.answer) for problem in problems]
    texts = [without_end_marks(rollout.text) for rollout in rollouts]
    columns["prompts"] = [p.prompt if isinstance(p.prompt, str) else [dict(m) for m in p.prompt] for p in problems]
    columns["completions"] = [
        text if isinstance(problem.prompt, str) else [{"role": "assistant", "content": text}]
        for problem, text in zip(problems, texts, strict=True)
    ]
    columns["completion_ids"] = [list(rollout.ids) for rollout in rollouts]
    return columns


def is_function(name: str) -> bool:
    """Whether a name means a function: ``path.py:fn``, ``pkg.mod:fn`` or ``pkg.mod.fn``.

    >>> is_function("rewards.py:brief"), is_function("data.jsonl"), is_function("gym:leg_counting")
    (True, False, False)
    """
    head = name.split(",")[0]
    if head.startswith("gym:") or head.lower().endswith(SUFFIXES) or "+" in name:
        return False
    dotted = r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+"
    return bool(re.fullmatch(r"[^,]+:[A-Za-z_][\w.]*", name) or re.fullmatch(dotted, name))


@dataclass(frozen=True)
class RewardSpec:
    """A reward function as it is asked for: where it is, its weight in the sum, and the seconds a batch may take."""

    path: str
    weight: float = 1.0
    deadline: float = DEADLINE


def reward_spec(text: str) -> RewardSpec:
    """Read ``path:fn``, ``path:fn=WEIGHT`` and ``path:fn=WEIGHT,deadline=SECONDS``.

    Raises SettingError for a weight that is no finite number, a deadline that is not positive, an unknown setting.

    >>> reward_spec("rewards.py:brief=0.5,deadline=120")
    RewardSpec(path='rewards.py:brief', weight=0.5, deadline=120.0)
    """
    head, *settings = text.split(",")
    path, equals, weight = head.rpartition("=")
    path, number = (path, _number(text, "the weight after '='", weight)) if equals else (head, 1.0)
    deadline = DEADLINE
    for setting in settings:
        key, _, value = setting.partition("=")
        if key.strip() != "deadline":
            raise SettingError(
                f"--reward {text!r}: unknown setting {key.strip()!r}; write path:fn=WEIGHT,deadline=SECONDS"
            )
        deadline = _number(text, "deadline", value)
        if deadline <= 0:
            raise SettingError(f"--reward {text!r}: deadline must be above 0 seconds, not {value!r}")
    return RewardSpec(path, number, deadline)


def _number(text: str, name: str, value: str) -> float:
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise SettingError(f"--reward {text!r}: {name} must be a finite number, not {value!r}")
    return number


class RewardFunction:
    """A reward function ``f(prompts, completions, **columns) -> list[float | None]``, by dotted path.

    ``path`` is ``pkg.mod:fn``, ``pkg.mod.fn`` or ``path/to/file.py:fn``. The function is called once per batch, with
    keywords only, in a worker process: with `columns_of`, ``trainer_state`` (None), ``log_metric(name, number)`` and
    ``log_extra(column, values)``; one without ``**kwargs`` is given what it names. ``async`` functions are awaited.
    ``deadline`` (seconds) bounds one batch, ``memory_mb`` (MiB) what calls may add to the loaded function's memory;
    ``output`` sends its prints to nowhere (``discard``) or to ``stderr``.

    After `score`, ``metrics`` and ``extra`` hold what the function logged for that batch.

    Raises SettingError when the function cannot be loaded.
    """

    def __init__(
        self,
        path: str,
        deadline: float = DEADLINE,
        memory_mb: float | None = None,
        *,
        name: str | None = None,
        output: Output = "discard",
    ) -> None:
        """Start the worker; return when it has loaded the function."""
        self.path = path
        self.name = name or re.split(r"[:.]", path)[-1]
        self.metrics: Mapping[str, float] = {}
        self.extra: Mapping[str, Sequence[Any]] = {}
        self._workers = Workers(path, 1, deadline, memory_mb, adapter=_ADAPTER, output=output)

    def score(self, problems: Sequence[Problem], rollouts: Sequence[Rollout]) -> list[float | Abstain]:
        """One finite number or abstention per rollout; ``problems[i]`` is the problem of ``rollouts[i]``.

        When the function raises, passes its deadline or kills its worker, every row abstains with that reason; an
        error is told with the line of the function's own file that it came through. A row that is None, NaN, infinite
        or no number abstains alone. Raises WiringError when the function requires a column that the data does not
        have, RunError when it does not return one entry per rollout.
        """
        self.metrics, self.extra = {}, {}
        if not rollouts:
            return []
        answer = self._workers.call(jsonable(columns_of(problems, rollouts)))
        if not isinstance(answer, Result):
            mend = f"; {self.path},deadline=SECONDS allows more" if LATE in answer.reason else ""
            return [Abstain(f"{self.name}: {answer.reason}{mend}")] * len(rollouts)
        given = answer.value
        if "missing" in given:
            name = given["missing"][0]
            raise WiringError(
                f"reward function {self.path!r} needs the column {name!r}{nearest(name, given['offered'])}; "
                f"the data offers {', '.join(given['offered'])}"
            )
        wanted = f"one number or None for each of the {len(rollouts)} completions"
        if "shape" in given:
            raise RunError(f"reward function {self.path!r} returned {given['shape']}; it must return a list, {wanted}")
        if len(given["rewards"]) != len(rollouts):
            raise RunError(
                f"reward function {self.path!r} returned {len(given['rewards'])} rewards for {len(rollouts)} "
                f"completions; it must return {wanted}"
            )
        self.metrics, self.extra = given["metrics"], given["extra"]
        return [self._judged(reward) for reward in given["rewards"]]

    def _judged(self, reward: Any) -> float | Abstain:
        if reward is None:
            return Abstain(f"{self.name}: returned None")
        if isinstance(reward, dict):
            return Abstain(f"{self.name}: returned a {reward['type']}, not a number")
        return reward if math.isfinite(reward) else Abstain(f"{self.name}: returned {reward}")

    def close(self) -> None:
        """End the worker. Also happens when the object is collected and at exit."""
        self._workers.close()

    def __enter__(self) -> RewardFunction:
        """Give the function itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """End the worker."""
        self.close()
