from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from truegain.core.component import component


@component("fold", cite=("arXiv:1909.08593", "verl/trainer/ppo/core_algos.py"))
@dataclass(frozen=True, kw_only=True)
class adaptive_kl:
    """Steer the weight of a KL penalty so that the measured KL stays near ``target`` (nats per token).

    ``beta <- beta * (1 + clip(kl / target - 1, -bound, bound) * rows / horizon)`` after every step of ``rows``
    rollouts. ``metric`` names the logged KL, ``setting`` the knob that is set for the next step; ``start`` is the
    first value. ``target`` and ``horizon`` (rollouts) are above 0, ``bound`` in [0, 1]. A step that logs no KL, as one
    without trained rows, changes nothing.

    Source: Ziegler et al. 2019, section 2.2; verl's AdaptiveKLController.

    >>> import torch
    >>> control = adaptive_kl(target=0.1, start=0.05, horizon=100.0)
    >>> state, out = control.update(control.init(), line={"kl": 0.3}, group=torch.zeros(50))
    >>> {name: round(value, 6) for name, value in out.items()}
    {'kl_to_reference.beta': 0.055}
    """

    target: float = 0.01
    start: float = 0.001
    horizon: float = 10_000.0
    bound: float = 0.2
    metric: str = "kl"
    setting: str = "kl_to_reference.beta"

    def init(self) -> dict[str, float]:
        """The penalty's first weight."""
        return {"beta": self.start}

    def update(
        self, state: Mapping[str, float], *, line: Mapping[str, Any], group: Any
    ) -> tuple[dict[str, float], dict[str, float]]:
        """The next weight, from the step's KL and its number of rows."""
        if self.metric not in line:
            return dict(state), {}
        error = min(max(float(line[self.metric]) / self.target - 1, -self.bound), self.bound)
        beta = state["beta"] * (1 + error * len(group) / self.horizon)
        return {"beta": beta}, {self.setting: beta}
