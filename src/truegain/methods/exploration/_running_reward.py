from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from truegain.core.component import component
from truegain.core.errors import SettingError


@component("fold", cite="truegain")
@dataclass(frozen=True, kw_only=True)
class running_reward:
    """Keep the mean reward of the steps so far, late ones weighing more, as the next step's prior of every prompt.

    ``m_n = sum_i decay^(n-i) r_i / sum_i decay^(n-i)`` with r_i the mean reward of step i; each of ``settings`` is set
    to it. ``decay`` in [0, 1]: 1 is the plain mean, 0 the last step's. Raises SettingError for a decay outside.

    >>> import torch
    >>> prior = running_reward(decay=0.5, settings=("probe.known_prior.otherwise",))
    >>> state, _ = prior.update(prior.init(), reward=torch.tensor([1.0, 0.0]))
    >>> prior.update(state, reward=torch.tensor([-1.0, 0.0]))[1]
    {'probe.known_prior.otherwise': -0.16666666666666666}
    """

    decay: float = 0.9
    settings: tuple[str, ...] = ("resample.buy_by_risk.otherwise", "probe.known_prior.otherwise")

    def __post_init__(self) -> None:
        """Check the decay."""
        if not 0 <= self.decay <= 1:
            raise SettingError(f"running_reward: decay={self.decay}; it is from 0 to 1")

    def init(self) -> dict[str, float]:
        """Nothing seen."""
        return {"sum": 0.0, "weight": 0.0}

    def update(self, state: Mapping[str, float], *, reward: Any) -> tuple[dict[str, float], dict[str, float]]:
        """The mean with this step's, and the settings."""
        if not len(reward):
            return dict(state), {}
        total = self.decay * state["sum"] + float(reward.mean())
        weight = self.decay * state["weight"] + 1.0
        return {"sum": total, "weight": weight}, dict.fromkeys(self.settings, total / weight)
