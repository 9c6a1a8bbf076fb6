"""REINFORCE++-baseline: rewards centred within the group, whitened over the whole batch."""

from __future__ import annotations

from functools import partial

from truegain.core.forms import Loop, Role, Stage, Term, Train
from truegain.core.system import system
from truegain.methods import credit, objective, reward


@system(
    "objective",
    paper="arXiv:2501.03262",
    cite="Hu et al. 2025, REINFORCE++",
    differs="a prompt with one sample gives nothing (verl: its raw reward); one optimiser step per batch; lr suits the "
    "tiny policy",
)
def reinforce_pp_baseline(beta: float = 0.001, clip: float = 0.2) -> Train:
    """Rewards centred within the samples of a prompt, then one scale for all tokens of the batch.

    A prompt whose samples hardly differ keeps its small advantages, where GRPO magnifies them. ``beta`` weighs the k2
    penalty to the policy before training, in the loss; 0 loads no reference. ``clip`` bounds the ratio.
    """
    surrogates: Stage = (partial(objective.ppo_clip, clip_low=clip, clip_high=clip),)
    roles: dict[str, Role] = {}
    if beta > 0:
        surrogates = (*surrogates, partial(objective.kl_to_reference, beta=beta, estimator="k2"))
        roles = {"reference": Role(source="init", fills="ref_logp")}
    centred = partial(credit.group_normalise, std="none")
    term = Term(credit=(centred, credit.whiten), surrogate=surrogates, weight=objective.token_mean)
    return Train(reward=reward.outcome, terms=(term,), roles=roles, loop=Loop(samples=16, lr=1e-4))
