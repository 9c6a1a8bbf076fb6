"""CISPO: clipped importance-sampling policy optimisation."""

from __future__ import annotations

from functools import partial

from truegain.core.forms import Loop, Term, Train
from truegain.core.system import system
from truegain.methods import credit, objective, reward


@system(
    "objective",
    paper="arXiv:2506.13585",
    cite="MiniMax 2025, MiniMax-M1",
    differs="the cap is 5, which TRL recommends after ScaleRL, as the paper names none; 4 optimiser steps per batch "
    "(paper 16); no dynamic sampling and no length penalty; lr suits the tiny policy",
)
def cispo(cap: float = 5.0, floor: float = 0.0, minibatches: int = 4) -> Train:
    """GRPO's credit in a loss that bounds the weight of a token's gradient and never drops the token.

    ``cap`` and ``floor`` bound the ratio itself; verl's defaults are 1.2 and 0.8. ``minibatches`` optimiser steps are
    made from each batch; with 1 the ratio is always 1.
    """
    term = Term(
        credit=credit.group_normalise,
        surrogate=partial(objective.capped_ratio, cap=cap, floor=floor),
        weight=objective.token_mean,
    )
    plan = partial(objective.minibatches, count=minibatches)
    return Train(reward=reward.outcome, terms=(term,), plan=plan, loop=Loop(samples=16, lr=1e-4))
