from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from truegain.core.component import component
from truegain.core.types import Rollout


@component("probe", cite="arXiv:2402.00742", fills="reference_reward")
def known_reference(
    rollouts: Sequence[Rollout], *, values: tuple[float, ...] = (0.0,), fact: str = "reference_reward"
) -> dict[str, Tensor]:
    """References that are known before anything is drawn: the dataset's for a prompt, or the same for all.

    Fills ``reference_reward[B,K]`` with the problem's ``meta[fact]``, a list of K numbers (say the rewards of a canned
    acceptable answer), where it has one, else with ``values``, in units of each named reward.
    Source: Wang et al. 2024, the reference of harmlessness.

    >>> from truegain.core.types import Problem
    >>> asked = [Problem("a", "a", meta={"reference_reward": [1.0, 2.0]}), Problem("b", "b")]
    >>> known_reference([Rollout(p, (), (), (), "", "eos", ()) for p in asked], values=(0.5, 0.0))["reference_reward"]
    tensor([[1.0000, 2.0000],
            [0.5000, 0.0000]])
    """
    rows = [rollout.problem.meta.get(fact, values) for rollout in rollouts]
    return {"reference_reward": torch.tensor(rows, dtype=torch.float32)}
