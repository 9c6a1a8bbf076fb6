"""GRPO: group relative policy optimisation."""

from __future__ import annotations

from functools import partial

from truegain.core.forms import Loop, Role, Term, Train
from truegain.core.system import system
from truegain.methods import credit, objective, reward


@system(
    "objective",
    paper="arXiv:2402.03300",
    cite="Shao et al. 2024, DeepSeekMath",
    differs="beta is 0 as in TRL 1.16 (paper 0.04, verl 0.001); one optimiser step per batch; lr suits the tiny policy",
)
def grpo(beta: float = 0.0, clip: float = 0.2) -> Train:
    """Rewards standardised within the samples of a prompt, in a clipped loss averaged per sequence.

    ``beta`` weighs the k3 penalty to the policy before training; 0 loads no reference. ``clip`` bounds the ratio.
    """
    surrogates: tuple[object, ...] = (partial(objective.ppo_clip, clip_low=clip, clip_high=clip),)
    roles: dict[str, Role] = {}
    if beta > 0:
        surrogates = (*surrogates, partial(objective.kl_to_reference, beta=beta))
        roles = {"reference": Role(source="init", fills="ref_logp")}
    term = Term(credit=credit.group_normalise, surrogate=surrogates, weight=objective.sequence_mean)  # pyright: ignore[reportArgumentType]
    return Train(reward=reward.outcome, terms=(term,), roles=roles, loop=Loop(samples=16, lr=1e-4))
