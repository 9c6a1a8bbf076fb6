from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from truegain.core.component import component
from truegain.core.errors import SettingError


@component("fold", cite="arXiv:2508.08940")
@dataclass(frozen=True, kw_only=True)
class shrink_budget:
    """A token budget that begins generous and shrinks step by step; what has a budget is set to it.

    ``B(t) = max(least, start * decay ** floor(t / every))`` for the t-th step, from 0; ``shape="linear"`` takes
    ``start * (1 - decay) `` off each time instead. Each of ``settings`` is set to the next step's budget; the first
    step's is the knob's own value, which should be ``start``. ``start`` and ``least`` in tokens, at least 1; ``decay``
    in (0, 1], 1 keeps the budget; ``every`` in steps. Raises SettingError for knobs out of bounds.

    Source: Hammoud et al. 2025, section 3.3: 256 tokens, times 0.7 every 100 steps.

    >>> shrink_budget().at(250), shrink_budget().update({}, step_index=299)[1]
    (125.43999999999998, {'reward.near_budget.budget': 87.80799999999998})
    """

    start: float = 256.0
    decay: float = 0.7
    every: int = 100
    least: float = 1.0
    shape: Literal["exponential", "linear"] = "exponential"
    settings: tuple[str, ...] = ("reward.near_budget.budget",)

    def __post_init__(self) -> None:
        """Check the knobs."""
        if min(self.start, self.least, self.every) < 1 or not 0 < self.decay <= 1:
            raise SettingError(
                f"shrink_budget: start={self.start}, least={self.least} and every={self.every} must be 1 or more, "
                f"decay={self.decay} above 0 and at most 1"
            )

    def at(self, step: int) -> float:
        """The budget of a step, tokens."""
        times = step // self.every
        if self.shape == "linear":
            return max(self.least, self.start * (1 - (1 - self.decay) * times))
        return max(self.least, self.start * self.decay**times)

    def init(self) -> dict[str, float]:
        """Nothing to keep: the budget is a function of the step."""
        return {}

    def update(self, state: Mapping[str, Any], *, step_index: int) -> tuple[dict[str, Any], dict[str, float]]:
        """The next step's budget."""
        return dict(state), dict.fromkeys(self.settings, self.at(step_index + 1))
