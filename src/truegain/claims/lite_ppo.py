"""Lite PPO against GRPO on an easy bandit: does one scale for the batch cost accuracy on prompts nearly solved?"""

from __future__ import annotations

from collections.abc import Mapping

from truegain.claims.arms import trained_accuracy
from truegain.claims.claim import Claim
from truegain.core.settings import loop_with
from truegain.recipes.grpo import grpo
from truegain.recipes.lite_ppo import lite_ppo

STEPS = 60


def _one_seed(seed: int) -> Mapping[str, float]:
    arms = {"lite-ppo": lite_ppo(), "without a deviation": lite_ppo(std="none"), "grpo": grpo()}
    return {
        name: trained_accuracy(
            loop_with(form, steps=STEPS, prompts=16, samples=8, lr=0.1, eval_every=0, save_every=0),
            model="table",
            task="bandit,level=95",
            seed=seed,
        )
        for name, form in arms.items()
    }


CLAIM = Claim(
    name="lite-ppo",
    system="lite-ppo",
    states="On a bandit with 95 % right arms, where a group rarely holds more than one failure, the sampled accuracy "
    "on unseen prompts after 60 updates of Lite PPO is not more than 1 point below that of GRPO.",
    unit="accuracy",
    one_seed=_one_seed,
    effect=lambda arms: arms["lite-ppo"] - arms["grpo"],
    threshold=-0.01,
)
