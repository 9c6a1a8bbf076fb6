"""DAPO: decoupled clip and dynamic sampling policy optimisation."""

from __future__ import annotations

from functools import partial

from truegain.core.forms import Loop, Term, Train
from truegain.core.system import system
from truegain.methods import credit, exploration, length, objective, reward


@system(
    "objective",
    paper="arXiv:2503.14476",
    cite="Yu et al. 2025, DAPO",
    differs="right answers are worth 1 and wrong ones 0 (paper 1 and -1); a refill draws as many prompts as are "
    "missing, and a step that stays short after 10 refills trains on what it has; one optimiser step per batch "
    "(paper 16): `plan.minibatches.count`; lr suits the tiny policy",
)
def dapo(clip_low: float = 0.2, clip_high: float = 0.28, overlong: float = 1.0) -> Train:
    """GRPO with a wider upper clip, a loss over tokens, groups without a signal drawn anew, and a soft length limit.

    No penalty to a reference. Each of the four is a part of its own: ``clip_high`` = ``clip_low``, ``overlong`` 0,
    `dataclasses.replace` of ``resample`` or of the weight take one out.
    """
    term = Term(
        credit=credit.group_normalise,
        surrogate=partial(objective.ppo_clip, clip_low=clip_low, clip_high=clip_high),
        weight=objective.token_mean,
    )
    return Train(
        reward=(reward.outcome, partial(length.overlong_penalty, factor=overlong)),
        resample=exploration.dynamic_sampling,
        plan=objective.minibatches,
        terms=(term,),
        loop=Loop(samples=16, lr=1e-4),
    )
