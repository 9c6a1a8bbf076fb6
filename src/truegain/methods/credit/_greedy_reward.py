from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from truegain.core.component import component
from truegain.core.types import Rollout


@component("probe", cite="arXiv:2310.10505", fills="greedy_reward")
def greedy_reward(draw: Any, rollouts: Sequence[Rollout]) -> dict[str, Tensor]:
    """The reward of one greedy completion of each row's prompt, for a baseline that needs no group.

    Fills ``greedy_reward[B]``: one completion at temperature 0 per different problem, judged by the task and given the
    form's whole reward. Where its check abstained, the mean reward of the problem's sampled rows stands for it.

    Source: Li et al. 2023, ReMax, algorithm 1.

    >>> from types import SimpleNamespace
    >>> from truegain.core.types import Problem
    >>> rows = [Rollout(Problem(name, name), (), (), (), "", "eos", ()) for name in "aba"]
    >>> loop = SimpleNamespace(again=lambda asked, n, temperature: asked, rewards=lambda found: [0.5, 1.0])
    >>> greedy_reward(loop, rows)["greedy_reward"].tolist()
    [0.5, 1.0, 0.5]
    """
    asked = list({rollout.problem.id: rollout.problem for rollout in rollouts}.values())
    found = draw.rewards(draw.again(asked, 1, temperature=0.0))
    baseline = dict(zip((problem.id for problem in asked), found, strict=True))
    unknown = {name for name, value in baseline.items() if math.isnan(value)}
    if unknown:
        own = draw.rewards(rollouts)
        for name in unknown:
            rewards = [value for value, rollout in zip(own, rollouts, strict=True) if rollout.problem.id == name]
            baseline[name] = sum(rewards) / len(rewards)
    return {"greedy_reward": torch.tensor([baseline[r.problem.id] for r in rollouts], dtype=torch.float32)}
