"""A contextual bandit for the table policy. The level is the number of arms that are right per hundred.

The prompt is two letters; only the last one matters, so a table of the last token generalises over the first. The
completion is one token: an arm.
"""

from __future__ import annotations

import functools
import string
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from truegain.core.errors import SettingError
from truegain.core.types import Abstain, Environment, Problem, Rollout, Split
from truegain.tasks.generated import digest

_PAIRS = tuple(a + b for a in string.ascii_lowercase for b in string.ascii_lowercase)


def right_arm(context: str, arm: str, level: int) -> bool:
    """Whether an arm pays in a context: ``level`` percent of all (context, arm) pairs do, decided by a hash."""
    return int.from_bytes(digest("bandit", context, arm), "big") % 100 < level


@dataclass(frozen=True)
class Bandit:
    """676 problems, split eight to one to one by a hash of the prompt. ``level`` 1 to 100, the share of right arms.

    Raises SettingError for a level outside its range.
    """

    level: int = 10

    def __post_init__(self) -> None:  # noqa: D105
        if not 1 <= self.level <= 100:
            raise SettingError(f"task bandit: level must be a whole number from 1 to 100, not {self.level!r}")

    @property
    def name(self) -> str:
        """``bandit``."""
        return "bandit"

    @property
    def stop(self) -> tuple[str, ...]:
        """No stop strings: one token is the whole completion."""
        return ()

    @property
    def supplies(self) -> tuple[str, ...]:
        """The columns that its checker fills."""
        return ("correct",)

    @property
    def max_tokens(self) -> int:
        """One arm."""
        return 1

    def size(self, split: Split) -> int:
        """How many of the 676 prompts fall into the split."""
        return len(_prompts(split))

    def problem(self, split: Split, index: int) -> Problem:
        """The index-th prompt of the split."""
        prompt = _prompts(split)[index]
        return Problem(f"bandit-{prompt}", prompt, None, {"task": "bandit", "level": self.level, "content": prompt})

    def score(self, problem: Problem, rollout: Rollout) -> Mapping[str, Any] | Abstain:
        """Fact ``correct``: 1.0 for an arm that pays."""
        return {"correct": float(right_arm(str(problem.prompt)[-1], rollout.text, self.level))}

    def final(self, problem: Problem, text: str) -> str | None:
        """The arm."""
        return text

    def environment(self) -> Callable[[], Environment] | None:
        """None: one turn."""
        return None

    def respond(self, env: Environment, text: str) -> str | None:
        """None: there is no tool."""
        return None


@functools.cache
def _prompts(split: Split) -> tuple[str, ...]:
    wanted = {"train": range(8), "dev": (8,), "test": (9,)}[split]
    return tuple(p for p in _PAIRS if int.from_bytes(digest("bandit", p), "big") % 10 in wanted)
