"""PPO with a critic and generalised advantage estimation."""

from __future__ import annotations

from functools import partial

from truegain.core.forms import Loop, Role, Term, Train
from truegain.core.system import system
from truegain.methods import credit, objective, reward


@system(
    "objective",
    paper="arXiv:1707.06347",
    cite="Schulman et al. 2017, proximal policy optimization algorithms",
    differs="an outcome reward on the last token and gamma = lam = 1, as reasoning recipes on verl have it; the critic "
    "is the policy before training with a scalar head; no dual clip (verl's 3: `--set dual=3`); four optimiser steps "
    "per batch (verl: one pass over it); learning rates suit the tiny policy",
)
def ppo(
    clip: float = 0.2, gamma: float = 1.0, lam: float = 1.0, cliprange: float = 0.5, critic_lr: float = 3e-4
) -> Train:
    """A critic's value is the baseline of every token; both models take four steps per batch within their clips.

    ``gamma`` and ``lam`` in [0, 1] belong to policy and critic alike. ``cliprange`` bounds how far a value moves in one
    batch, ``critic_lr`` is the critic's learning rate.
    """
    policy = Term(
        credit=(partial(credit.gae, gamma=gamma, lam=lam), credit.whiten),
        surrogate=partial(objective.ppo_clip, clip_low=clip, clip_high=clip),
        weight=objective.token_mean,
    )
    critic = Term(
        credit=partial(credit.gae_returns, gamma=gamma, lam=lam),
        surrogate=partial(objective.value_clip, cliprange=cliprange),
        weight=objective.token_mean,
        role="critic",
    )
    return Train(
        reward=reward.outcome,
        terms=(policy, critic),
        plan=partial(objective.minibatches, count=4),
        roles={"critic": Role(source="init", fills="value", head=True, lr=critic_lr)},
        loop=Loop(prompts=64, samples=4, lr=1e-4),
    )
