from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Bool
from torch import Tensor

from truegain.core.component import component
from truegain.core.types import Rollout
from truegain.methods.exploration._prior import prior_of


@component("probe", cite="arXiv:2603.10848", fills="prior_value")
def known_prior(
    rollouts: Sequence[Rollout],
    mask: Bool[Tensor, "B T"],
    *,
    fact: str = "success_rate",
    otherwise: float | None = None,
    right: float = 1.0,
    wrong: float = -1.0,
) -> dict[str, Tensor]:
    """A prior value of each prompt, known before anything is drawn: the dataset's success rate, or one number for all.

    Fills ``prior_value[B,T]``, the same at every token: ``wrong + (right - wrong) * rate`` with the rate in the
    problem's ``meta[fact]`` where that is a number from 0 to 1, else ``otherwise`` (units of reward; a `running_reward`
    may set it), NaN while that is None. A value model's scores of a dataset belong into such a fact.

    >>> from truegain.core.types import Problem
    >>> asked = [Problem("a", "a", meta={"success_rate": 0.75}), Problem("b", "b")]
    >>> rows = [Rollout(problem, (), (1,), (0.0,), "", "eos", ()) for problem in asked]
    >>> known_prior(rows, torch.ones(2, 1, dtype=torch.bool), otherwise=0.25)["prior_value"].flatten()
    tensor([0.5000, 0.2500])
    """
    values = [prior_of(r.problem, fact, otherwise, right, wrong) for r in rollouts]
    return {"prior_value": torch.tensor(values, device=mask.device)[:, None].expand(mask.shape).clone()}
