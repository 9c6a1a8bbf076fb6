from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

from jaxtyping import Float
from torch import Tensor

from truegain.core.component import component
from truegain.core.errors import SettingError
from truegain.methods.reward._simplex import begin, spread, told


@component("fold", cite=("arXiv:2310.04373", "tedmoskovitz/ConstrainedRL4LMs training_utils.py NelderMeadTrainer"))
@dataclass(frozen=True, kw_only=True)
class search_thresholds:
    """Search for the thresholds of `multipliers` within one run: Nelder and Mead's simplex on a trusted metric.

    Each trial holds for ``period`` steps (the source: a tenth of the run). Its value is the ``metric`` of the last step
    in which every constraint was within ``near`` (relative) of its threshold, or of the last step if none was. Higher
    is better. The first trial is ``start``, the next ones ``start`` with one threshold moved by ``size``. When the
    values of the simplex deviate by less than ``stop`` its best thresholds stay. ``metric`` names what a step logs:
    above all a checker's verdict that no constraint sees. A step that does not log it counts for the period only.

    Give ``start`` to the `multipliers` as their thresholds too. Raises SettingError for knobs out of bounds.
    Source: Moskovitz et al. 2023, section 5; moves 1, 2, 1/2, 1/2 for mirror, stretch, contraction and shrinking.

    >>> import torch
    >>> fold, parts = search_thresholds(metric="gold", start=(0.5,), size=0.1, period=1), torch.tensor([[0.0, 0.5]])
    >>> state, out = fold.update(fold.init(), line={"gold": 0.2}, reward_parts=parts)
    >>> out
    {'multipliers.thresholds': (0.6,)}
    """

    metric: str = "rewards/outcome/mean"
    start: tuple[float, ...] = (0.9,)
    size: float = -0.1
    period: int = 10
    near: float = 0.05
    stop: float = 0.01
    setting: str = "multipliers.thresholds"

    def __post_init__(self) -> None:
        """Check the knobs."""
        if not self.start or not self.size or self.period < 1 or self.near < 0 or self.stop < 0:
            raise SettingError(
                f"search_thresholds: start={self.start}, size={self.size}, period={self.period}, near={self.near}, "
                f"stop={self.stop}; see its docstring for the bounds"
            )

    def init(self) -> dict[str, Any]:
        """The first trial, nothing seen of it."""
        return {"simplex": begin(self.start, self.size), "steps": 0, "held": None, "last": None, "done": False}

    def update(
        self, state: Mapping[str, Any], *, line: Mapping[str, Any], reward_parts: Float[Tensor, "B K"]
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Note the step's value; at the end of the period, the next trial."""
        now = dict(state)
        if now["done"]:
            return now, {}
        now["steps"] += 1
        value = float(line.get(self.metric, math.nan))
        if math.isfinite(value):
            now["last"] = value
            means = [float(mean) for mean in reward_parts[:, 1:].double().mean(dim=0)]
            goals = cast("list[float]", now["simplex"]["trial"])
            if all(abs(mean - goal) <= self.near * abs(goal) for mean, goal in zip(means, goals, strict=True)):
                now["held"] = value
        if now["steps"] < self.period or now["last"] is None:
            return now, {}
        simplex = told(now["simplex"], now["last"] if now["held"] is None else now["held"])
        done = spread(simplex) < self.stop
        goals = simplex["points"][0] if done else simplex["trial"]
        return {"simplex": simplex, "steps": 0, "held": None, "last": None, "done": done}, {self.setting: tuple(goals)}
