from __future__ import annotations

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
    form's whole reward; NaN where its check abstained, which the credit that uses it defines.

    Source: Li et al. 2023, ReMax, algorithm 1.

    >>> from types import SimpleNamespace as Fake
    >>> rows = [Fake(problem=Fake(id=name)) for name in "aba"]
    >>> loop = Fake(again=lambda asked, samples, temperature: asked, rewards=lambda found: [0.5, 1.0])
    >>> greedy_reward(loop, rows)["greedy_reward"].tolist()
    [0.5, 1.0, 0.5]
    """
    asked = list({rollout.problem.id: rollout.problem for rollout in rollouts}.values())
    found = draw.rewards(draw.again(asked, 1, temperature=0.0))
    by_problem = dict(zip((problem.id for problem in asked), found, strict=True))
    values = [by_problem[rollout.problem.id] for rollout in rollouts]
    return {"greedy_reward": torch.tensor(values, dtype=torch.float32)}
