"""GRPO against the same run under a reward that knows nothing, on a contextual bandit with the table policy."""

from __future__ import annotations

from collections.abc import Mapping

from truegain.claims.arms import trained_accuracy
from truegain.claims.claim import Claim
from truegain.core.settings import loop_with, with_setting
from truegain.recipes.controls import blind
from truegain.recipes.grpo import grpo


def _one_seed(seed: int) -> Mapping[str, float]:
    form = loop_with(grpo(), steps=150, prompts=16, samples=8, lr=0.1, eval_every=0, save_every=0)
    arms = {"grpo": form, "random reward": with_setting(blind(form, rate=0.1), "reward.random_reward.seed", seed)}
    return {name: trained_accuracy(arm, model="table", task="bandit,level=10", seed=seed) for name, arm in arms.items()}


CLAIM = Claim(
    name="grpo",
    system="grpo",
    states="After equal steps on a bandit with 10 % right arms, GRPO's sampled accuracy on unseen prompts exceeds that "
    "of the same run under a random reward by more than 20 points.",
    unit="accuracy",
    one_seed=_one_seed,
    effect=lambda arms: arms["grpo"] - arms["random reward"],
    threshold=0.2,
)
