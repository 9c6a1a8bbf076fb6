"""ARLCP: right answers pay for reflections and for length, the two weighed by how much they reflected."""

from __future__ import annotations

from functools import partial

from truegain.core.forms import Loop, Role, Stage, Term, Train
from truegain.core.system import system
from truegain.methods import credit, length, objective, reward


@system(
    "length",
    paper="arXiv:2602.12113",
    cite="Yu et al. 2026, ARLCP: stop unnecessary reflection",
    differs="the bounds between classes are 1 and 2 reflections, as the embedded traces have a few (paper 40 and "
    "80: `bounds`); their words check and back are in the list; the thought's marks are whatever the task's check asks "
    "for (paper: exactly one </think>); beta is 0 (source 0.001 in the reward); one optimiser step per batch; lr suits "
    "the tiny policy",
)
def arlcp(
    bounds: tuple[float, ...] = (1.0, 2.0),
    weights: tuple[float, ...] = (0.05, 0.1, 0.15),
    total: float = 0.2,
    beta: float = 0.0,
    clip: float = 0.2,
) -> Train:
    """Two penalties within a group's right answers: on reflection words and on length, ``total`` together.

    The reflections take ``weights[c]`` of it, c the number of ``bounds`` that a row's count exceeds, and the length the
    rest. Leave-one-out baseline. ``beta`` weighs the k1 penalty to the policy before training in the reward; 0 loads no
    reference. ``clip`` bounds the ratio.
    """
    penalty = partial(length.reflection_and_length, bounds=bounds, weights=weights, total=total)
    rewards: Stage = (reward.outcome, penalty)
    roles: dict[str, Role] = {}
    if beta > 0:
        rewards = (reward.outcome, penalty, partial(reward.reference_kl, beta=beta))
        roles = {"reference": Role(source="init", fills="ref_logp")}
    term = Term(
        credit=credit.leave_one_out,
        surrogate=partial(objective.ppo_clip, clip_low=clip, clip_high=clip),
        weight=objective.token_mean,
    )
    return Train(
        score=length.count_reflections, reward=rewards, terms=(term,), roles=roles, loop=Loop(samples=16, lr=1e-4)
    )
