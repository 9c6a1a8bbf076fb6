"""What a problem says of its own difficulty."""

from __future__ import annotations

import math

from truegain.core.types import Problem


def prior_of(problem: Problem, fact: str, otherwise: float | None, right: float, wrong: float) -> float:
    """The problem's expected reward: its success rate ``meta[fact]`` put between ``wrong`` and ``right``.

    ``otherwise``, in units of reward, stands for a rate that is missing, no number or outside [0, 1]; NaN if None.
    """
    rate = problem.meta.get(fact)
    if isinstance(rate, int | float) and not isinstance(rate, bool) and 0 <= rate <= 1:
        return wrong + (right - wrong) * float(rate)
    return math.nan if otherwise is None else otherwise
