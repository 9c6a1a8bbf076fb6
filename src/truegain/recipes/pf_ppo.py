"""PF-PPO: PPO on the samples of a prompt whose rewards can be trusted."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Literal

from truegain.core.forms import Loop, Train
from truegain.core.system import system
from truegain.methods import reward
from truegain.recipes.ppo import ppo


@system(
    "reward",
    paper="arXiv:2409.06957",
    cite="Shen and Zhang 2024, Policy filtration in RLHF to fine-tune LLM for code generation",
    differs="the others leave the batch (released code: a buffer drawn from with replacement, weights 1 and 0, or 0.4 "
    "for the best and 0.1 for each other); the reward is the checker's verdict: give reward functions or a reward "
    "model; the filter is chosen before the run by `evaluation.reward_fit`; no KL penalty (source 0.01: ppo with "
    "`reward.reference_kl`); learning rates suit the tiny policy",
)
def pf_ppo(
    keep: Literal["best_worst", "best_random", "best", "all"] = "best_worst",
    clip: float = 0.2,
    critic_lr: float = 3e-4,
) -> Train:
    """PPO that trains on the best and worst of five samples of each prompt, as a reward model errs in the middle.

    ``keep`` is the filter: best and worst (BW), best and a random other (BR), best, or all, which is PPO. ``clip``
    bounds the ratio, ``critic_lr`` is the critic's learning rate.
    """
    form = ppo(clip=clip, critic_lr=critic_lr)
    chosen = partial(reward.extreme_ranks, keep=keep)
    return replace(form, select=chosen, loop=Loop(prompts=64, samples=5, lr=1e-4))
