"""KL estimators k1, k2 and k3, in the reward or in the loss."""

from __future__ import annotations

from functools import partial
from typing import Literal

from truegain.core.errors import SettingError
from truegain.core.forms import Loop, Role, Stage, Term, Train
from truegain.core.kl import Estimator
from truegain.core.system import system
from truegain.methods import credit, objective, reward


@system(
    "reward",
    paper="http://joschu.net/blog/kl-approx.html",
    cite="Schulman 2020, Approximating KL divergence",
    differs="the source is about values; which gradient each gives in which place is derived in `truegain.core.kl`; k3 "
    "is bounded (`log_ratio_bound`, `bound`); lr suits the tiny policy",
)
def kl_estimators(
    estimator: Estimator = "k2", place: Literal["loss", "reward"] = "loss", beta: float = 0.05, clip: float = 0.2
) -> Train:
    """A leave-one-out policy gradient with a KL penalty whose estimator and place are free to choose.

    The right pairs are ``k2`` in the loss and ``k1`` in the reward; ``k1`` in the loss has no effect on average, ``k3``
    in the loss pulls to the mode-covering KL(reference || policy), and ``k2`` or ``k3`` in the reward hardly pull near
    the reference. ``beta`` weighs the penalty in units of reward per nat, ``clip`` bounds the ratio.
    """
    if place not in ("loss", "reward"):
        raise SettingError(f"kl_estimators: place={place!r}; it is loss or reward")
    rewards: Stage = (reward.outcome,)
    surrogates: Stage = (partial(objective.ppo_clip, clip_low=clip, clip_high=clip),)
    if place == "reward":
        rewards = (*rewards, partial(reward.reference_kl, beta=beta, estimator=estimator))
    else:
        surrogates = (*surrogates, partial(objective.kl_to_reference, beta=beta, estimator=estimator))
    term = Term(credit=credit.leave_one_out, surrogate=surrogates, weight=objective.sequence_sum)
    reference = Role(source="init", fills="ref_logp")
    return Train(reward=rewards, terms=(term,), roles={"reference": reference}, loop=Loop(samples=16, lr=1e-4))
