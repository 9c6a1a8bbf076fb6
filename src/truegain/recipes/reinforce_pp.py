"""REINFORCE++: token returns whitened over the whole batch."""

from __future__ import annotations

from functools import partial

from truegain.core.forms import Loop, Role, Stage, Term, Train
from truegain.core.system import system
from truegain.methods import credit, objective, reward


@system(
    "objective",
    paper="arXiv:2501.03262",
    cite="Hu et al. 2025, REINFORCE++",
    differs="one optimiser step per batch; what is to come is carried over a tool's tokens (as verl 0.9; before, they "
    "cut the sum); lr suits the tiny policy",
)
def reinforce_pp(beta: float = 0.001, clip: float = 0.2, gamma: float = 1.0) -> Train:
    """One sample per prompt: rewards to go, less a KL penalty per token, whitened over all tokens of the batch.

    ``beta`` weighs the k1 penalty to the policy before training, in the reward of each token; 0 loads no reference.
    ``clip`` bounds the ratio, ``gamma`` discounts what is to come.
    """
    credits: Stage = (partial(credit.return_to_go, gamma=gamma), credit.whiten)
    roles: dict[str, Role] = {}
    if beta > 0:
        penalty = partial(credit.reference_kl_to_go, beta=beta, gamma=gamma)
        credits = (partial(credit.return_to_go, gamma=gamma), penalty, credit.whiten)
        roles = {"reference": Role(source="init", fills="ref_logp")}
    term = Term(
        credit=credits,
        surrogate=partial(objective.ppo_clip, clip_low=clip, clip_high=clip),
        weight=objective.token_mean,
    )
    return Train(reward=reward.outcome, terms=(term,), roles=roles, loop=Loop(prompts=256, samples=1, lr=1e-4))
