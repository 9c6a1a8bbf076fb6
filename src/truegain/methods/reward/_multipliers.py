from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from jaxtyping import Float
from torch import Tensor

from truegain.core.component import component
from truegain.core.errors import SettingError, WiringError


@component("fold", cite=("arXiv:2310.04373", "tedmoskovitz/ConstrainedRL4LMs constrained_ppo.py", "arXiv:2112.12228"))
@dataclass(frozen=True, kw_only=True)
class multipliers:
    """A Lagrange multiplier per named reward: each is pushed up to its threshold and held there, not maximised.

    The first named reward is the task (or the KL penalty); the n others are constraints ``J_i >= theta_i`` on their
    batch means. Parameters z_i take a step of gradient descent with ``momentum`` on ``sum_i lambda_i (J_i - theta_i)``
    after each step, and the weights of all named rewards are set for the next (``setting``):

    | squash | lambda_i | weight of the first | step uses |
    |---|---|---|---|
    | ``sigmoid``: at least the threshold | sigmoid(z_i) | n - sum lambda | lambda' (J - theta) |
    | ``tanh``: the threshold, from both sides | tanh(z_i) | n - sum lambda | lambda' (J - theta) |
    | ``clamp``: the textbook's | max(z_i, 0) | 1 | J - theta |
    | ``softmax``: all sum to 1 | exp(z_i) / (exp(base) + sum exp(z)) | exp(base) / (same) | J - theta |

    ``thresholds`` in units of each reward; a rate that must stay BELOW d is a reward that is 1 where the behaviour does
    not occur, with threshold 1 - d. ``start`` is every z at first (set the component's own first weights to
    `first_weights`). ``lr`` >= 0, ``momentum`` in [0, 1). ``bootstrap`` numbers the constraint, from 0, that says the
    task's own success rate: the first weight is at least its multiplier, so that a sparse task is learned before the
    other constraints take over. A constraint whose mean is not finite, and a step without rows, move nothing.

    Raises SettingError for knobs out of bounds, WiringError when the thresholds do not fit the named rewards.
    Source: Moskovitz et al. 2023 (mu-PPO sigmoid, xi-PPO tanh); Roy et al. 2022 (softmax, bootstrap).

    >>> import torch
    >>> fold = multipliers(thresholds=(0.5, 0.5), squash="tanh")
    >>> state, out = fold.update(fold.init() | {"z": [0.5, -0.5]}, reward_parts=torch.tensor([[-0.3, 0.6, 0.45]]))
    >>> [round(z, 5) for z in state["z"]]  # 0.5 - 0.1 * (1 - tanh(0.5)^2) * 0.1, ...
    [0.49214, -0.49607]
    """

    thresholds: tuple[float, ...] = (0.9,)
    squash: Literal["sigmoid", "tanh", "clamp", "softmax"] = "sigmoid"
    lr: float = 0.1
    momentum: float = 0.0
    start: float = 0.0
    base: float = 0.0
    bootstrap: int | None = None
    setting: str = "weighted_rewards.weights"

    def __post_init__(self) -> None:
        """Check the knobs."""
        known = self.squash in ("sigmoid", "tanh", "clamp", "softmax")
        legal = known and self.lr >= 0 and 0 <= self.momentum < 1 and bool(self.thresholds)
        if not legal or not (self.bootstrap is None or 0 <= self.bootstrap < len(self.thresholds)):
            raise SettingError(
                f"multipliers: thresholds={self.thresholds}, squash={self.squash!r}, lr={self.lr}, momentum="
                f"{self.momentum}, bootstrap={self.bootstrap}; see its docstring for the bounds"
            )

    def init(self) -> dict[str, list[float]]:
        """Every multiplier at its start."""
        return {"z": [self.start] * len(self.thresholds), "speed": [0.0] * len(self.thresholds)}

    @property
    def first_weights(self) -> tuple[float, ...]:
        """The weights before anything was seen."""
        return self.weights(self.init()["z"])

    def update(
        self, state: Mapping[str, list[float]], *, reward_parts: Float[Tensor, "B K"]
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """The next multipliers, and the weights of all named rewards."""
        if reward_parts.shape[1] != len(self.thresholds) + 1:
            raise WiringError(
                f"reward.multipliers has {len(self.thresholds)} thresholds for {reward_parts.shape[1]} named rewards; "
                "give one for each but the first"
            )
        if not len(reward_parts):
            return dict(state), {}
        z, speed = list(state["z"]), list(state["speed"])
        means = [float(mean) for mean in reward_parts[:, 1:].double().mean(dim=0)]
        for i, (mean, threshold) in enumerate(zip(means, self.thresholds, strict=True)):
            if math.isfinite(mean):
                speed[i] = self.momentum * speed[i] + self._slope(z[i]) * (mean - threshold)
                z[i] -= self.lr * speed[i]
                z[i] = max(z[i], 0.0) if self.squash == "clamp" else z[i]
        return {"z": z, "speed": speed}, {self.setting: self.weights(z)}

    def weights(self, z: list[float]) -> tuple[float, ...]:
        """The first weight and the multipliers, from their parameters."""
        if self.squash == "softmax":
            top = max(*z, self.base)
            odds = [math.exp(x - top) for x in (self.base, *z)]
            first, *others = (x / sum(odds) for x in odds)
        else:
            others = [self._squashed(x) for x in z]
            first = 1.0 if self.squash == "clamp" else len(z) - sum(others)
        if self.bootstrap is not None:
            first = max(first, others[self.bootstrap])
        return (first, *others)

    def _squashed(self, z: float) -> float:
        if self.squash == "sigmoid":
            return 0.5 * (1 + math.tanh(z / 2))
        return math.tanh(z) if self.squash == "tanh" else max(z, 0.0)

    def _slope(self, z: float) -> float:
        """d lambda / dz, where the step takes it."""
        if self.squash == "sigmoid":
            return self._squashed(z) * (1 - self._squashed(z))
        return 1 - math.tanh(z) ** 2 if self.squash == "tanh" else 1.0
