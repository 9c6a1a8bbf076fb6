"""TRPA: trust region preference approximation."""

from __future__ import annotations

from functools import partial

from truegain.core.forms import Loop, Role, Term, Train
from truegain.core.system import system
from truegain.methods import objective, reward


@system(
    "objective",
    paper="arXiv:2504.04524",
    cite="Su et al. 2025, Trust region preference approximation",
    differs="the lowest level is an answer cut off at the limit (paper: a format error of its logic task); a step "
    "without pairs is not scaled by beta (`unpaired_ranks.beta`; the paper does not say); the trust region is k3 on "
    "tokens (the code offers sqrt(KL + 0.25) too); 4 optimiser steps per batch; lr suits the tiny policy (paper 4e-7)",
)
def trpa(beta: float = 0.1, anisotropy: float = 2.5, kl: float = 0.001, minibatches: int = 4) -> Train:
    """Ranks by rule instead of rewards: every better answer to a prompt against every worse one, near the old policy.

    ``beta`` is the strength of the preference per nat of mean log-ratio to the policy before training; ``anisotropy``
    multiplies it for pairs with a right answer. ``kl`` weighs the distance to the policy that drew, from the second of
    ``minibatches`` optimiser steps on. The reward is logged and never used.
    """
    pairs = Term(
        surrogate=partial(objective.ranked_pairs, beta=beta, anisotropy=anisotropy), weight=objective.pair_mean
    )
    alone = Term(surrogate=objective.unpaired_ranks, weight=objective.unpaired_mean)
    near = Term(surrogate=partial(objective.kl_to_old, beta=kl), weight=objective.token_mean)
    return Train(
        score=objective.outcome_level,
        reward=reward.outcome,
        terms=(pairs, alone, near),
        plan=partial(objective.minibatches, count=minibatches),
        roles={"reference": Role(source="init", fills="ref_logp")},
        loop=Loop(samples=16, lr=1e-4),
    )
