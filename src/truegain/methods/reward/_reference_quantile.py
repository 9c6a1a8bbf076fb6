from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from truegain.core.component import component
from truegain.core.errors import SettingError
from truegain.core.types import Rollout


@component("probe", cite="arXiv:2402.00742", fills="reference_reward")
def reference_quantile(
    draw: Any, rollouts: Sequence[Rollout], *, quantile: float = 0.85, samples: int = 8, role: str = "reference"
) -> dict[str, Tensor]:
    """What a good answer of the model before training earns: a quantile of each named reward over its samples.

    Fills ``reference_reward[B,K]``: for each different prompt ``samples`` completions of ``role``, judged as the
    step's own and charged to the ledger, and of each named reward (those that modify others left out) the
    ``quantile`` in [0, 1], interpolated. A prompt whose every check abstained takes the quantile over all prompts'
    samples; if there is none at all the reference is NaN, and the loop refuses the reward made from it.

    Raises SettingError for knobs out of bounds. Source: Wang et al. 2024, the choice of the reference.

    >>> from types import SimpleNamespace
    >>> from truegain.core.types import Problem
    >>> row = Rollout(Problem("a", "a"), (), (), (), "", "eos", ())
    >>> loop = SimpleNamespace(again=lambda asked, n, role: [row] * n, reward_parts=lambda rows: [[1.0], [2.0], None])
    >>> reference_quantile(loop, [row], quantile=0.5, samples=3)["reference_reward"]
    tensor([[1.5000]])
    """
    if not 0 <= quantile <= 1 or samples < 1:
        raise SettingError(f"reference_quantile: quantile={quantile} must be 0 to 1, samples={samples} at least 1")
    asked = list({rollout.problem.id: rollout.problem for rollout in rollouts}.values())
    drawn = draw.again(asked, samples, role=role)
    found: dict[str, list[list[float]]] = {problem.id: [] for problem in asked}
    for rollout, parts in zip(drawn, draw.reward_parts(drawn), strict=True):
        if parts is not None:
            found[rollout.problem.id].append(parts)
    pooled = [parts for rows in found.values() for parts in rows]
    width = len(pooled[0]) if pooled else 1
    at = {name: _quantile(rows or pooled, quantile, width) for name, rows in found.items()}
    return {"reference_reward": torch.stack([at[rollout.problem.id] for rollout in rollouts]).float()}


def _quantile(rows: list[list[float]], quantile: float, width: int) -> Tensor:
    if not rows:
        return torch.full((width,), float("nan"))
    return torch.tensor(rows, dtype=torch.float64).quantile(quantile, dim=0)
