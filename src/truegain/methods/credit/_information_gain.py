from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from jaxtyping import Int
from torch import Tensor

from truegain.core.component import component
from truegain.core.probing import CLOSING, OPENING, places_of, step_cuts, table_of
from truegain.core.types import Rollout
from truegain.methods.credit._answer_scores import answer_scores


@component("probe", cite=("arXiv:2510.14967", "github.com/GuoqingWang1/IGPO"), fills="step_reward")
def information_gain(
    roles: Mapping[str, Any],
    draw: Any,
    rollouts: Sequence[Rollout],
    step: Int[Tensor, "B T"],
    *,
    closing: str = CLOSING,
    opening: str = OPENING,
    ending: str = "",
    role: str = "policy",
) -> dict[str, Tensor]:
    """Reward each step by what it adds to the probability of the reference answer, and the last one by the outcome.

        p_s = exp(mean_k log p(a*_k | rollout up to the end of step s, ``closing + opening``, a*_<k)),  p_0 before any
        step_reward[B,S]:  p_s - p_{s-1} for every step but the last, the form's whole reward for the last one

    The steps may be the turns of an agent: what a tool answered belongs to the step that called it. The gains of a row
    telescope to p_{S-1} - p_0, between -1 and 1. A row whose gains are not all known (no reference answer, a model
    that gives NaN) has the outcome alone: zeros, then the reward. NaN past a row's last step; a row without a step has
    nothing. Without gradient. Cost: one pass over each row. `step_returns` turns it into credit.

    Source: Wang et al. 2025 (IGPO), section 3, and its published trainer.

    >>> from types import SimpleNamespace as Some
    >>> import math, torch
    >>> from truegain.core.types import Problem, Turn
    >>> said = (Turn("policy", 0, 4),)
    >>> row = Rollout(Problem("a", "a", "4"), (), (5, 6, 7, 8), (0.0,) * 4, "abcd", "eos", said)
    >>> policy = Some(encode=lambda text: (9,) * len(text), decode=lambda ids: "abcd"[: len(ids)])
    >>> p = [0.1, 0.25, 0.2, 0.7]
    >>> engine = Some(score=lambda asked: [(0.0,) * (len(r.suffix) - 1) + (math.log(p[r.cut]),) for r in asked])
    >>> loop = Some(rewards=lambda rollouts: [1.0])
    >>> information_gain({"policy": Some(policy=policy, engine=engine)}, loop, [row], torch.arange(4)[None])
    {'step_reward': tensor([[ 0.1500, -0.0500,  0.5000,  1.0000]])}
    """
    cuts = step_cuts(step, rollouts, roles[role].policy.decode, (closing, opening))
    # What is known before any step is needed too; after the last one the outcome itself is known.
    asked = [{number: cut for number, cut in row.items() if number != max(row)} for row in cuts]
    places = sorted({*places_of(asked), *((row, 0) for row, steps in enumerate(cuts) if steps)})
    found = answer_scores(roles[role], rollouts, places, closing + opening, ending, "token")
    outcome = draw.rewards(rollouts)
    values: dict[tuple[int, int], float] = {}
    numbered: list[Mapping[int, int]] = []
    for row, steps in enumerate(cuts):
        order = sorted(steps)
        chance = [math.exp(found[row, cut]) for cut in (0, *(steps[number] for number in order[:-1]))] if order else []
        gains = [after - before for before, after in pairwise(chance)]
        if not all(map(math.isfinite, gains)):
            gains = [0.0] * len(gains)
        values |= {(row, n): value for n, value in zip(order, (*gains, outcome[row]), strict=False)}
        numbered.append({number: number for number in order})
    return {"step_reward": table_of(numbered, values, step)}
