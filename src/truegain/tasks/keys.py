"""Checkers that need no task: a completion's final answer against the key that its row brings along."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from truegain.core.errors import SettingError, nearest
from truegain.core.types import Abstain, Environment, Problem, Rollout, Split
from truegain.tasks._answers import final_answer, number, same
from truegain.tasks.functions import without_end_marks
from truegain.tasks.math_check import MathCheck, stated
from truegain.tasks.python_check import PythonCheck, program_of, read_key

CHECKERS = ("exact", "math", "python")


class Keys:
    """``exact``, ``math`` (math-verify) or ``python``, for problems of anybody's data that carry an answer.

    The final answer is the marked one. Without a mark ``exact`` takes the last number where the key is one, else all of
    the completion; ``math`` the last expression. For ``python`` the answer is a key of unit tests as
    `python_check.key_of` makes it, and the completion a program, run in the sandbox. ``correct`` and ``answered`` are
    0.0 or 1.0. A row without a key, or with one that cannot be read, is an abstention. There are no problems in here.

    >>> problem = Problem("p", "3 + 4?", "7")
    >>> Keys("exact").score(problem, Rollout(problem, (), (), (), "I get 7.", "stop", ()))
    {'correct': 1.0, 'answered': 1.0}
    """

    stop: tuple[str, ...] = ()
    supplies: tuple[str, ...] = ("correct", "answered")

    def __init__(self, checker: str) -> None:
        """Raise SettingError for an unknown checker, or for ``math`` where math-verify is not installed."""
        if checker not in CHECKERS:
            raise SettingError(
                f"unknown checker {checker!r}{nearest(checker, CHECKERS)}; it is {' or '.join(CHECKERS)}"
            )
        self.name = checker
        self._math = MathCheck() if checker == "math" else None
        self._python = PythonCheck() if checker == "python" else None

    def problem(self, split: Split, index: int) -> Problem:
        """Raise IndexError: there is none."""
        raise IndexError(f"{self.name} checks the problems of others; it has none of its own")

    def size(self, split: Split) -> int:
        """None at all."""
        return 0

    def score(self, problem: Problem, rollout: Rollout) -> Mapping[str, Any] | Abstain:
        """``correct`` and ``answered``, or an abstention."""
        return self.score_all([problem], [rollout])[0]

    def score_all(self, problems: Sequence[Problem], rollouts: Sequence[Rollout]) -> list[Mapping[str, Any] | Abstain]:
        """`score` of many rollouts, ``problems[i]`` being that of ``rollouts[i]``."""
        texts = [without_end_marks(rollout.text) for rollout in rollouts]
        if self._python is not None:
            return [self._tested(self._python, *row) for row in zip(problems, texts, strict=True)]
        facts = [self._exact(problem, text) for problem, text in zip(problems, texts, strict=True)]
        if self._math is None:
            return facts
        rows = [i for i, fact in enumerate(facts) if not isinstance(fact, Abstain)]
        asked = [(str(problems[i].answer), stated(texts[i])) for i in rows]
        for i, verdict in zip(rows, self._math.verdicts(asked), strict=True):
            if isinstance(verdict, Abstain):
                facts[i] = verdict
            elif verdict == "bad key":
                facts[i] = Abstain(f"the answer {str(problems[i].answer)[:80]!r} is no readable mathematics")
            else:
                facts[i] = {"correct": float(verdict == "right"), "answered": float(verdict != "unread")}
        return facts

    def _exact(self, problem: Problem, text: str) -> Mapping[str, Any] | Abstain:
        if not problem.answer:
            return Abstain(f"problem {problem.id}: the row brings no answer to check against")
        found = self.final(problem, text)
        return {
            "correct": float(found is not None and same(found, problem.answer)),
            "answered": float(found is not None),
        }

    def _tested(self, python: PythonCheck, problem: Problem, text: str) -> Mapping[str, Any] | Abstain:
        if not problem.answer:
            return Abstain(f"problem {problem.id}: the row brings no unit tests")
        try:
            read_key(problem.answer)
        except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError):
            return Abstain(
                f"problem {problem.id}: its answer holds no tests; `truegain convert FILE,checker=python` makes them "
                "of a column 'tests'"
            )
        program = program_of(text, problem.prompt, problem.answer)
        if program is None:
            return {"correct": 0.0, "answered": 0.0}
        passed = python.outcomes([(program, problem.answer)])[0]
        return passed if isinstance(passed, Abstain) else {"correct": float(min(passed)), "answered": 1.0}

    def final(self, problem: Problem, text: str) -> str | None:
        """The completion's final answer; None when there is none."""
        return final_answer(without_end_marks(text), last_number=_plain(problem))

    def environment(self) -> Callable[[], Environment] | None:
        """None: a single turn."""
        return None

    def respond(self, env: Environment, text: str) -> str | None:
        """None: no tools."""
        return None


def _plain(problem: Problem) -> bool:
    """Whether the key is one number, no ratio: the last number of ``1/2`` is 2."""
    key = problem.answer
    return key is not None and "/" not in key and "\\frac" not in key and number(key) is not None
