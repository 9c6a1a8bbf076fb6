"""CAPO: curvature-aware policy optimisation."""

from __future__ import annotations

from functools import partial
from typing import Literal

from truegain.core.forms import Loop, Term, Train
from truegain.core.system import system
from truegain.methods import credit, objective, reward


@system(
    "objective",
    paper="arXiv:2510.00819",
    cite="Melo et al. 2025, stabilizing policy gradients (CAPO)",
    differs="the update is foreseen with the moments that the policy's own optimiser has of its unembedding (source: a "
    "sparse shadow Adam of it, advanced by each row's mean over the surviving tokens that name it); with tied "
    "embeddings they hold the input side too; averages over a row or a batch are of its tokens' own numbers (source: "
    "along the update of its mean gradient); the 64 likeliest tokens stand for the vocabulary (source: per model); lr "
    "is three times that of the other recipes for the tiny policy (source: 5 times)",
)
def capo(
    policy_limit: float = 1e-4,
    objective_limit: float = 1e-2,
    one_sided: bool = False,
    per: Literal["token", "sequence", "batch"] = "token",
    direction: Literal["adam", "gradient"] = "adam",
    update: Literal["own", "batch"] = "own",
    clip: float = 0.2,
) -> Train:
    """GRPO without the tokens whose own update, by a last-layer model, would change the policy too much.

    ``policy_limit`` bounds the foreseen change of a token's policy (KL, nats), ``objective_limit`` that of its
    objective; 0 switches either off, and both at 0 are GRPO. ``per`` row or batch tests averages. ``direction`` is the
    optimiser of the update that is foreseen, ``update`` whether it is each token's own or the batch's.
    """
    gate = partial(
        objective.curvature_gate,
        policy_limit=policy_limit,
        objective_limit=objective_limit,
        one_sided=one_sided,
        per=per,
        direction=direction,
        update=update,
    )
    term = Term(
        credit=credit.group_normalise,
        surrogate=partial(objective.ppo_clip, clip_low=clip, clip_high=clip),
        weight=(objective.sequence_mean, gate),
    )
    return Train(reward=reward.outcome, terms=(term,), loop=Loop(samples=8, lr=3e-4))
