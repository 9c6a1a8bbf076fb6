from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from truegain.core.component import component


@component("fold", cite="truegain")
@dataclass(frozen=True, kw_only=True)
class carry:
    """Hand what a component logged in one step to its knob in the next: a running mean that it keeps itself.

    ``metric`` names the logged number, ``setting`` the knob. A step that does not log it, or logs no finite number,
    leaves the knob as it is.

    >>> fold = carry(metric="truegain/running_reward", setting="reward_sureness.mean")
    >>> fold.update(fold.init(), line={"truegain/running_reward": 0.25})[1]
    {'reward_sureness.mean': 0.25}
    """

    metric: str = "truegain/running_reward"
    setting: str = "reward_sureness.mean"

    def init(self) -> dict[str, float]:
        """It holds nothing: the knob does."""
        return {}

    def update(
        self, state: Mapping[str, float], *, line: Mapping[str, Any]
    ) -> tuple[dict[str, float], dict[str, float]]:
        """The knob's next value."""
        value = line.get(self.metric)
        told = value is not None and math.isfinite(float(value))
        return dict(state), {self.setting: float(value)} if told and value is not None else {}
