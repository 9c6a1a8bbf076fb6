"""Two rewards for the same policy, the rubric itself and a count of mentions: the links say which run was hacked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from truegain.claims.claim import Claim
from truegain.core.component import call
from truegain.core.forms import members
from truegain.lab.optimise import Curve, reinforce
from truegain.methods import reward
from truegain.recipes.objective_mismatch import objective_mismatch
from truegain.recipes.rm_ensemble_conservative import on_members
from truegain.tasks.rubric import Rubric

WORLDS, STEPS, ROWS, LR = 4, 80, 64, 0.1


@dataclass(frozen=True)
class _Reward:
    """A reward of texts where the laboratory has its reward models: gold, or every mention paid in full."""

    world: Rubric
    hacked: bool

    def score(self, texts: Tensor, members: int | None = None) -> Tensor:
        """Scores [count, 1]."""
        return (self.world.worth[texts].sum(1) if self.hacked else self.world.gold(texts))[:, None]


def _curve(world: Rubric, hacked: bool) -> Curve:
    proxies: Any = _Reward(world, hacked)
    form = on_members(reward.mean_member, 0.0, "lab")
    return reinforce(proxies, form, members=1, steps=STEPS, samples=ROWS, lr=LR, look_every=STEPS // 16)


def _link(curve: Curve) -> Any:
    offered: dict[str, Any] = {name: np.array(values) for name, values in curve.items()}
    (metric,) = members(objective_mismatch().metric)
    return call(metric, {**offered, "fields": offered}, {})[0].links[0]


def _one_seed(seed: int) -> Mapping[str, float]:
    arms: dict[str, float] = {}
    for name, hacked in (("count of mentions", True), ("gold", False)):
        curves = [_curve(Rubric(WORLDS * seed + n), hacked) for n in range(WORLDS)]
        links = [_link(curve) for curve in curves]
        arms[f"{name}: flagged"] = sum(link.mismatch for link in links) / WORLDS
        arms[f"{name}: late correlation"] = sum(link.late for link in links) / WORLDS
        arms[f"{name}: gold lost since its peak"] = (
            sum(max(curve["gold"]) - curve["gold"][-1] for curve in curves) / WORLDS
        )
    return arms


CLAIM = Claim(
    name="objective-mismatch",
    system="objective-mismatch",
    states="Of policies over texts trained for 80 steps on a count of mentions, whose truth pays each further mention "
    "half as much, the report flags a share that is more than 0.5 above the share it flags of policies trained on the "
    "truth itself; 4 worlds per seed.",
    unit="share of runs flagged",
    one_seed=_one_seed,
    effect=lambda arms: arms["count of mentions: flagged"] - arms["gold: flagged"],
    threshold=0.5,
)
