"""V0.5: a baseline from a prior value and few rollouts, more of them where the two disagree."""

from __future__ import annotations

from functools import partial

from truegain.core.forms import Loop, Term, Train
from truegain.core.system import system
from truegain.methods import credit, exploration, objective, reward


@system(
    "credit",
    name="v0.5",
    paper="arXiv:2603.10848",
    cite="V0.5 2026, Generalist value model as a prior for sparse RL rollouts",
    differs="the prior of a prompt is the success rate that its dataset gives (`success_rate`, such as a value model's "
    "scores), else the running mean reward of the run; no generalist value model is bundled; the advantage is not "
    "normalised over the batch (not known to us); rows are averaged per sequence, no KL penalty; lr suits the tiny "
    "policy",
)
def v0_5(cost: float = 1 / 256, most: int = 16, clip_low: float = 0.2, clip_high: float = 0.28) -> Train:
    """Rewards above a baseline between the group's mean and a prior value, from 4 rollouts or as many as pay.

    ``cost`` is the price of a rollout in squared reward (inf draws none beyond the loop's), ``most`` the largest group.
    """
    term = Term(
        credit=(partial(credit.group_normalise, std="none"), credit.shrink_to_prior),
        surrogate=partial(objective.ppo_clip, clip_low=clip_low, clip_high=clip_high),
        weight=objective.sequence_mean,
    )
    return Train(
        reward=partial(reward.outcome, wrong=-1.0),
        resample=partial(exploration.buy_by_risk, cost=cost, most=most),
        probe=exploration.known_prior,
        fold=exploration.running_reward,
        terms=(term,),
        loop=Loop(samples=4, lr=1e-4),
    )
