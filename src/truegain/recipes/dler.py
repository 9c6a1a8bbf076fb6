"""DLER: truncation as the only length penalty, with an optimiser that bears it."""

from __future__ import annotations

from functools import partial

from truegain.core.forms import Loop, Role, Stage, Term, Train
from truegain.core.system import system
from truegain.methods import credit, exploration, length, objective, reward


@system(
    "objective",
    paper="arXiv:2510.15110",
    cite="Liu et al. 2025, DLER: doing length penalty right",
    differs="the limit is the loop's (paper 4000 tokens, and 2000 for easy questions); the deviation counts rows (that "
    "of verl's REINFORCE++-baseline, which the script runs, counts tokens: `whiten`); the reference penalty is k3; one "
    "optimiser step per batch: `plan.minibatches.count`; a step still short after 10 refills trains on what it has; "
    "the script's stop_properly_penalty and correct_sample_advantage_boost, whose role is nowhere described, are left "
    "out; merging is in da-dler; lr suits the tiny policy",
)
def dler(
    easy: float | None = None, clip_low: float = 0.2, clip_high: float = 0.28, dual: float = 10.0, beta: float = 5e-4
) -> Train:
    """A completion that runs into its limit is wrong; the optimiser is shielded from what this does to rewards.

    Scaling by the batch, clip-higher and dynamic sampling do that. Truncation makes the rewards of many prompts equal
    (they are drawn anew) and spreads the deviations of the others (one for the batch is used). ``easy`` is DA-DLER's
    tighter limit for problems that half of the samples solve, as a share of the token limit (paper 0.5, for a further
    150 steps); None has one limit for all. ``dual`` bounds the loss of a negative advantage, ``beta`` weighs the
    penalty to the policy before training; 0 loads no reference. `length.selective_merge` grafts the largest changes
    of the weights back onto the model before training.
    """
    surrogates: Stage = (partial(objective.ppo_clip, clip_low=clip_low, clip_high=clip_high, dual=dual),)
    roles: dict[str, Role] = {}
    if beta > 0:
        surrogates = (*surrogates, partial(objective.kl_to_reference, beta=beta))
        roles = {"reference": Role(source="init", fills="ref_logp")}
    term = Term(
        credit=partial(credit.group_normalise, std="centred"),
        surrogate=surrogates,
        weight=objective.token_mean,
    )
    return Train(
        reward=(reward.outcome, partial(length.within_limit, easy=easy)),
        # The sum of all rewards: a group whose right answers were all cut off has no signal either.
        resample=partial(exploration.dynamic_sampling, metric="sum"),
        plan=objective.minibatches,
        terms=(term,),
        roles=roles,
        loop=Loop(samples=16, lr=1e-4),
    )
