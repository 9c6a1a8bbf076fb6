"""SAFE: actor-critic with a KL penalty that is off until it is needed."""

from __future__ import annotations

from functools import partial
from typing import Literal

from truegain.core.forms import Loop, Role, Term, Train
from truegain.core.system import system
from truegain.methods import credit, objective, reward


@system(
    "objective",
    paper="arXiv:2602.04651",
    cite="Maity 2026, SAFE",
    differs="ONE critic, as the loop holds one value per token: the soft minimum of two is `objective.soft_min`, used "
    "in the claim; the critic is a plain head on a copy of the start; the penalty acts through its derivative (the "
    "published code gives it no gradient: form=log_only); entropy is estimated from the log-probs of what was drawn; "
    "the step size follows the KL of the step before (`entropy_gated_kl.lr`, off) instead of a preview of its own; no "
    "asymmetric variant, no KL momentum, no averaged target critic; learning rates suit the tiny policy (source 1e-5)",
)
def safe(
    clip: float = 0.2,
    entropy: float = 0.01,
    form: Literal["gradient", "penalty", "log_only"] = "gradient",
    base: float = 0.3,
    critic_lr: float = 3e-4,
) -> Train:
    """PPO whose penalty to the reference begins above a threshold that the reward moves, and grows as entropy falls.

    ``base`` is the threshold before it moves (nats per token), ``form`` what is penalised (see
    `objective.entropy_gated_kl`), ``entropy`` the weight of the entropy bonus, ``critic_lr`` the critic's rate.
    """
    policy = Term(
        credit=(credit.gae, credit.whiten),
        surrogate=(
            partial(objective.ppo_clip, clip_low=clip, clip_high=clip),
            partial(objective.kl_to_reference, beta=0.0),
            partial(objective.entropy_bonus, coefficient=entropy),
        ),
        weight=objective.token_mean,
    )
    critic = Term(
        credit=credit.gae_returns,
        surrogate=objective.value_huber,
        weight=objective.token_mean,
        scale=0.5,
        role="critic",
    )
    return Train(
        reward=reward.outcome,
        terms=(policy, critic),
        plan=partial(objective.minibatches, epochs=2),
        fold=partial(objective.entropy_gated_kl, base=base, form=form),
        roles={
            "critic": Role(source="init", fills="value", head=True, lr=critic_lr),
            "reference": Role(source="init", fills="ref_logp"),
        },
        loop=Loop(prompts=16, samples=4, lr=1e-4),
    )
