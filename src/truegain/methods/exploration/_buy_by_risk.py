from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from truegain.core.component import component
from truegain.core.errors import SettingError
from truegain.core.types import Problem, Resampled, Rollout
from truegain.methods.exploration._prior import prior_of


@component("resample", cite="arXiv:2603.10848")
def buy_by_risk(
    draw: Any,
    rollouts: Sequence[Rollout],
    *,
    cost: float = 1 / 256,
    most: int = 16,
    variance: float = 1.0,
    fact: str = "success_rate",
    otherwise: float | None = None,
    right: float = 1.0,
    wrong: float = -1.0,
) -> Resampled:
    """Draw one rollout more of each prompt whose baseline it would better by more than it costs; ask again after it.

    With k rewards of mean v, prior V and ``variance`` s2 of one reward, ``D2 = max(0, (v - V)^2 - s2 / k)`` and the
    error of the fused baseline of `shrink_to_prior` ``MSE(k) = (s2 / k) D2 / (D2 + s2 / k)``. One more is drawn while
    ``MSE(k) - MSE(k + 1) > cost`` (D2 as it stands) and k < ``most``. A prior that the rewards bear out, D2 = 0, buys
    nothing; without a prior MSE(k) is s2 / k. The loop's ``samples`` are the start: 4 in the paper.

    ``cost`` >= 0 in squared reward per rollout: inf buys none, 0 all where D2 is above 0. ``most`` rows per prompt, 64
    above the start at most, as the loop asks no oftener. Priors: see `known_prior`, whose knobs must be the same.
    Rollouts whose check abstained cost a draw and count for nothing. Raises SettingError for knobs out of bounds.
    Source: V0.5 2026, one-step-look-ahead allocation.

    >>> from types import SimpleNamespace
    >>> rows = [Rollout(Problem(n, n), (), (), (), "", "eos", ()) for n in "aabb"]
    >>> loop = SimpleNamespace(round=0, rewards=lambda _: [1.0, 1.0, 1.0, -1.0])
    >>> loop.again = lambda asked, n: [rows[0]] * len(asked)
    >>> [r.problem.id for r in buy_by_risk(loop, rows, otherwise=-0.1).add]
    ['a']
    """
    if not cost >= 0 or most < 1 or not variance > 0:
        raise SettingError(
            f"buy_by_risk: cost={cost} must be 0 or more, most={most} 1 or more, variance={variance} above 0"
        )
    if draw.round >= most:
        return Resampled()  # a problem whose check abstains each time would be asked for without end
    groups: dict[str, tuple[Problem, list[float]]] = {}
    for rollout, value in zip(rollouts, draw.rewards(rollouts), strict=True):
        groups.setdefault(rollout.problem.id, (rollout.problem, []))[1].append(value)
    asked: list[Problem] = []
    for problem, rewards in groups.values():
        prior = prior_of(problem, fact, otherwise, right, wrong)
        if len(rewards) < most and _drop(rewards, prior, variance) > cost:
            asked.append(problem)
    found: Sequence[Rollout] = draw.again(asked, 1) if asked else []
    return Resampled(add=[replace(r, sample=len(groups[r.problem.id][1])) for r in found])


def _drop(rewards: Sequence[float], prior: float, variance: float) -> float:
    """How much smaller one more reward is to make the squared error of the fused baseline."""
    k = len(rewards)
    mean = sum(rewards) / k
    # With n rewards: noise * bias / (bias + noise) = bias / (1 + n bias / variance), noise being variance / n.
    bias = math.inf if math.isnan(prior) else max(0.0, (mean - prior) ** 2 - variance / k)
    if math.isinf(bias):
        return variance / k - variance / (k + 1)
    return bias / (1 + k * bias / variance) - bias / (1 + (k + 1) * bias / variance)
