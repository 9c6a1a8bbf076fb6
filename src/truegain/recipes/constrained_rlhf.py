"""Constrained RLHF: every reward is held where it is still a proxy, by a multiplier of its own."""

from __future__ import annotations

from functools import partial

from truegain.core.forms import Loop, Role, Stage, Term, Train
from truegain.core.system import system
from truegain.methods import credit, objective, reward


@system(
    "reward",
    paper="arXiv:2310.04373",
    cite="Moskovitz et al. 2023, Confronting reward model overoptimization with constrained RLHF",
    differs="the components are verdicts of the task's checker (right, well formed) instead of reward models: replace "
    "them by your own, one threshold each; advantages within a prompt's samples instead of a value head per component; "
    "one optimiser step per batch (source: 5 epochs); multipliers start at z = 0 (source: N(0, 0.01)); in the source's "
    "code the unsquashed branch counts multipliers from 1, here from 0; the search takes the value of one step, where "
    "the source asks a gold evaluator; lr suits the tiny policy",
)
def constrained_rlhf(
    thresholds: tuple[float, ...] = (0.9, 0.95),
    equality: bool = True,
    beta: float = 0.2,
    multiplier_lr: float = 0.1,
    search: str = "",
    clip: float = 0.2,
) -> Train:
    """Multipliers push each named reward up to its threshold and hold it there; what is left over goes to the KL.

    ``thresholds``, one per reward beside the first (the KL penalty of weight ``beta`` per nat), are the points beyond
    which more of that reward is no longer better. ``equality`` also pushes a reward down that is above (xi-PPO);
    without it the constraint is one-sided (mu-PPO). ``search`` names a logged metric by which the thresholds are
    searched during the run, starting from the given ones; empty: they stay. ``clip`` bounds the ratio.
    """
    held = partial(
        reward.multipliers,
        thresholds=thresholds,
        squash="tanh" if equality else "sigmoid",
        lr=multiplier_lr,
        momentum=0.1,
    )
    folds: Stage = (held,)
    if search:
        folds = (held, partial(reward.search_thresholds, metric=search, start=thresholds))
    term = Term(
        credit=partial(credit.weighted_rewards, weights=held().first_weights),
        surrogate=partial(objective.ppo_clip, clip_low=clip, clip_high=clip),
        weight=objective.sequence_mean,
    )
    return Train(
        reward=(partial(reward.reference_kl, beta=beta), reward.outcome, partial(reward.well_formed, scale=1.0)),
        terms=(term,),
        fold=folds,
        roles={"reference": Role(source="init", fills="ref_logp")},
        loop=Loop(samples=16, lr=1e-4),
    )
