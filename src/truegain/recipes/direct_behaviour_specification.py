"""Direct behaviour specification: say how often a behaviour may occur, and no weight is tuned by hand."""

from __future__ import annotations

from functools import partial

from truegain.core.forms import Loop, Stage, Term, Train
from truegain.core.system import system
from truegain.methods import credit, length, objective, reward


@system(
    "reward",
    paper="arXiv:2412.07177",
    cite="Roy 2024, Effective reward specification in deep reinforcement learning; Roy et al. 2022, arXiv:2112.12228",
    differs="built from the abstract, a summary and what is recalled of the 2022 paper; behaviours are written as what "
    "should hold (1 - indicator), which has the same advantage; advantages within a prompt's samples, scaled by the "
    "batch, instead of one critic per constraint in SAC; rates are means over completions, not discounted; no chain "
    "rule through the softmax; the thesis's other chapters are no part of it; lr suits the tiny policy",
)
def direct_behaviour_specification(
    well_formed: float = 0.95,
    within: float = 0.95,
    share: float = 0.75,
    success: float | None = None,
    multiplier_lr: float = 0.1,
    clip: float = 0.2,
) -> Train:
    """The task's reward, subject to rates: of well-formed answers, and of those within ``share`` of the token limit.

    ``well_formed`` and ``within`` are the least rates, 0 to 1. Multipliers are a softmax, so that a constraint which is
    broken for long cannot make the loss explode, and one which holds gives its weight back to the task. ``success``,
    for tasks too sparse to start with, adds the success rate as a constraint whose multiplier the task's own weight
    may not fall below. ``clip`` bounds the ratio.
    """
    rewards: Stage = (
        reward.outcome,
        partial(reward.well_formed, scale=1.0),
        partial(length.within_budget, share=share),
    )
    thresholds = (well_formed, within)
    held = partial(reward.multipliers, squash="softmax", lr=multiplier_lr)
    if success is None:
        held = partial(held, thresholds=thresholds)
    else:
        rewards = (*rewards, reward.outcome)
        held = partial(held, thresholds=(*thresholds, success), bootstrap=2)
    term = Term(
        credit=partial(credit.weighted_rewards, weights=held().first_weights, std="centred"),
        surrogate=partial(objective.ppo_clip, clip_low=clip, clip_high=clip),
        weight=objective.sequence_mean,
    )
    return Train(reward=rewards, terms=(term,), fold=held, loop=Loop(samples=16, lr=1e-4))
