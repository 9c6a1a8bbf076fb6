"""RLOO: REINFORCE with a leave-one-out baseline."""

from __future__ import annotations

from functools import partial

from truegain.core.forms import Loop, Role, Stage, Term, Train
from truegain.core.system import system
from truegain.methods import credit, objective, reward


@system(
    "objective",
    paper="arXiv:2402.14740",
    cite="Ahmadian et al. 2024, Back to basics",
    differs="the ratio is clipped token by token as in verl (TRL: one per completion; on the one optimiser step per "
    "batch taken here the gradients are the same); beta is 0 as in verl (TRL 0.05); 16 samples per "
    "prompt (TRL 2); lr suits the tiny policy",
)
def rloo(beta: float = 0.0, clip: float = 0.2) -> Train:
    """Each sample's baseline is the mean reward of its siblings, in a clipped loss summed over tokens.

    ``beta`` weighs the KL to the policy before training, in the reward of the whole completion; 0 loads no reference.
    ``clip`` bounds the ratio.
    """
    rewards: Stage = (reward.outcome,)
    roles: dict[str, Role] = {}
    if beta > 0:
        rewards = (reward.outcome, partial(reward.reference_kl, beta=beta))
        roles = {"reference": Role(source="init", fills="ref_logp")}
    term = Term(
        credit=credit.leave_one_out,
        surrogate=partial(objective.ppo_clip, clip_low=clip, clip_high=clip),
        weight=objective.sequence_sum,
    )
    return Train(reward=rewards, terms=(term,), roles=roles, loop=Loop(samples=16, lr=1e-4))
