"""verl's reward function, from any task's checker or any reward function of TRL's form. Nothing here imports verl::

    reward.custom_reward_function.path=pkg://truegain.hosts.verl_score reward.custom_reward_function.name=compute_score

with, in the file that ``TRUEGAIN_VERL_CONFIG`` names (or the same keys below ``reward_kwargs``)::

    [compute_score]
    task = "data.jsonl,checker=math"    # or: reward = "rewards.py:brief"
    abstain = "drop"                    # or a number, the score of a completion that could not be judged

verl has no abstention: a score is a number. ``drop`` gives NaN, which our estimators leave out of a group's statistics
and give no advantage; verl's own estimators and its means of scores do not, so with these name a number.
"""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from truegain.core.errors import SettingError, nearest
from truegain.core.types import Abstain, Problem, Rollout, Task
from truegain.hosts.data import RECORD, from_record
from truegain.tasks import make
from truegain.tasks.functions import DEADLINE, RewardFunction

_LOG = logging.getLogger(__name__)
_LOCK = threading.Lock()


@dataclass(frozen=True)
class Scoring:
    """What judges a completion. ``deadline`` (seconds) bounds a call of ``reward``; a task's checker has its own."""

    task: str | None = None
    reward: str | None = None
    abstain: float | str | None = None
    deadline: float = DEADLINE

    def __post_init__(self) -> None:
        """Refuse what is incomplete."""
        if (self.task is None) == (self.reward is None):
            raise SettingError("compute_score: name a task or a reward function, one of them")
        if self.abstain != "drop" and not isinstance(self.abstain, int | float):
            raise SettingError(
                'compute_score: say what a completion counts that cannot be judged: abstain = "drop" takes it out of '
                "the batch under the estimators of truegain and is NaN to verl's own; abstain = 0.0 is a wrong answer"
            )

    @property
    def score_of_abstention(self) -> float:
        """What stands in the place of a score."""
        return math.nan if self.abstain == "drop" else float(self.abstain or 0.0)


def scoring(*tables: Mapping[str, Any]) -> Scoring:
    """Read the settings, later tables first. Raises SettingError for an unknown key or an incomplete choice.

    >>> scoring({"task": "sort", "abstain": 0}).score_of_abstention
    0.0
    """
    given = {name: value for table in tables for name, value in table.items()}
    legal = {one.name for one in fields(Scoring)}
    for name in given:
        if name not in legal:
            raise SettingError(f"compute_score: unknown key {name!r}{nearest(name, legal)}; legal: {', '.join(legal)}")
    return Scoring(**given)


_JUDGES: dict[Scoring, Task | RewardFunction] = {}


def compute_score(
    data_source: str,
    solution_str: str,
    ground_truth: Any,
    extra_info: Mapping[str, Any] | None = None,
    *,
    reward_router_address: Any = None,
    reward_model_tokenizer: Any = None,
    **settings: Any,
) -> dict[str, float]:
    """Score one completion: ``score``, ``abstained`` (0 or 1) and, from a task's checker, ``correct``.

    The reward function is called in a worker process with a deadline, with the columns of ``extra_info``, ``answer``
    and ``solution`` (the ground truth) and ``data_source``; math and programs are checked in workers and the sandbox.
    The keys are the same for every sample. The reason of an abstention is logged.
    """
    how = _scoring(settings)
    problem = _problem(data_source, ground_truth, extra_info or {})
    rollout = Rollout(problem, (), (), (), solution_str, "eos", ())
    score, correct = _judged(_judge(how), problem, rollout)
    if isinstance(score, Abstain):
        _LOG.warning("truegain: abstained on a completion of %s: %s", data_source, score.reason)
        value, correct = how.score_of_abstention, how.score_of_abstention
    else:
        value = score
    found = {"score": value, "abstained": float(isinstance(score, Abstain))}
    return found if how.task is None else {**found, "correct": correct}


def _problem(data_source: str, ground_truth: Any, info: Mapping[str, Any]) -> Problem:
    """The problem that `truegain convert` put into the row, else what verl says of it."""
    if isinstance(info.get(RECORD), str):
        return from_record(info[RECORD], "extra_info")[1]
    return Problem(
        id=str(info.get("index", "")),
        prompt=str(info.get("question", "")),
        answer=None if ground_truth is None else str(ground_truth),
        meta={**info, "data_source": data_source},
    )


def _scoring(settings: Mapping[str, Any]) -> Scoring:
    from truegain.hosts.verl_config import read

    return scoring(read().score or {}, settings)


def _judge(how: Scoring) -> Task | RewardFunction:
    """The judge of these settings, one in each process."""
    with _LOCK:
        if how not in _JUDGES:
            _JUDGES[how] = make(how.task) if how.task is not None else RewardFunction(str(how.reward), how.deadline)
        return _JUDGES[how]


def _judged(judge: Task | RewardFunction, problem: Problem, rollout: Rollout) -> tuple[float | Abstain, float]:
    if isinstance(judge, RewardFunction):
        with _LOCK:
            return judge.score([problem], [rollout])[0], math.nan
    facts = judge.score(problem, rollout)
    if isinstance(facts, Abstain):
        return facts, math.nan
    if "correct" not in facts and "score" not in facts:
        return Abstain("the checker gave neither 'correct' nor 'score': the sample has no ground truth"), math.nan
    correct = float(facts.get("correct", math.nan))
    return float(facts.get("score", correct)), correct
