"""W-REINFORCE and its parts: negative and positive sample reinforcement."""

from __future__ import annotations

from functools import partial

from truegain.core.forms import Loop, Term, Train
from truegain.core.system import system
from truegain.methods import credit, objective, reward


@system(
    "objective",
    paper="arXiv:2506.01347",
    cite="Zhu et al. 2025, The surprising effectiveness of negative reinforcement in LLM reasoning",
    differs="after rows were left out, the mean is over the tokens that remain, without a further factor for how many "
    "were right or wrong (none is seen in the code); lr suits the tiny policy",
)
def nsr_wreinforce(positive: float = 0.1, negative: float = 1.0, minibatches: int = 4, clip: float = 0.2) -> Train:
    """Reward ``positive`` for a right answer and ``-negative`` for a wrong one, used as they are: no baseline.

    Wrong answers are pushed down, and their probability goes to the others in proportion to what these have: the
    policy keeps its order of alternatives, and with it pass@k. ``positive`` 0 is NSR, which trains on wrong answers
    only; ``negative`` 0 is PSR, on right ones only; both 1 is REINFORCE. ``minibatches`` optimiser steps are made from
    each batch; ``clip`` bounds the ratio.
    """
    term = Term(
        credit=credit.return_to_go,
        surrogate=partial(objective.ppo_clip, clip_low=clip, clip_high=clip),
        weight=objective.token_mean,
    )
    return Train(
        reward=partial(reward.outcome, right=positive, wrong=-negative),
        select=reward.nonzero_reward,
        plan=partial(objective.minibatches, count=minibatches),
        terms=(term,),
        loop=Loop(samples=8, lr=1e-4),
    )
