"""PPO-C and PPO-M: rewards that do not pay for confident wording."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Literal

from truegain.core.forms import Fit, Train
from truegain.core.system import system
from truegain.methods import reward
from truegain.recipes.bradley_terry_rm import bradley_terry_rm
from truegain.recipes.ppo import ppo


@system(
    "reward",
    paper="arXiv:2410.09724",
    cite="Leng et al. 2024, Taming overconfidence in LLMs: reward calibration in RLHF",
    differs="PPO-C on the checker's verdict, which does not see the stated confidence (source: a reward model on the "
    "text without it); the mean starts at `mean` instead of the reward model's own; no KL penalty (source 0.01); the "
    "task's prompts have to ask for `Confidence: N`, or every completion counts as 0.5; CDPO is not built; learning "
    "rates suit the tiny policy. PPO-M's reward model is `ppo-m-reward-model`",
)
def ppo_m_ppo_c(
    weight: float = 2.0,
    form: Literal["difference", "threshold"] = "difference",
    mean: float = 0.0,
    critic_lr: float = 3e-4,
) -> Train:
    """PPO whose reward depends on stated confidence only by whether the answer is better than usual.

    PPO-C: ``weight`` and ``form`` (the source: 2 for difference, 0.5 for threshold) say how much, ``mean`` is the usual
    reward at first. PPO-M is `ppo` on the rewards of a model that `ppo-m-reward-model` fitted, as they are.
    """
    plain = ppo(critic_lr=critic_lr)
    sure = partial(reward.reward_sureness, weight=weight, form=form, mean=mean)
    return replace(plain, score=reward.stated_confidence, reward=(reward.outcome, sure), fold=reward.carry)


@system(
    "reward",
    paper="arXiv:2410.09724",
    cite="Leng et al. 2024, Taming overconfidence in LLMs: reward calibration in RLHF",
    differs="the pairs come from `reward.confidence_pairs`; plain Bradley-Terry on each, which is the published loss; "
    "the k-wise variant is not built; learning rates suit the tiny policy (source 9e-6)",
)
def ppo_m_reward_model() -> Fit:
    """PPO-M's reward model: fitted on pairs that differ in the stated confidence alone.

    Give `truegain fit reward-model --data` a file of such pairs (`reward.confidence_pairs` makes two of each pair).
    """
    return bradley_terry_rm(centring=0.0)
