"""DAPO with and without its dynamic sampling on a contextual bandit with few right arms, update for update."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from truegain.claims.arms import trained_accuracy
from truegain.claims.claim import Claim
from truegain.core.settings import loop_with
from truegain.recipes.dapo import dapo

STEPS = 60
# Of 8 samples at 10 % right arms, 1 - 0.9^8 - 0.1^8 = 57 % of groups have a signal: a full batch takes 1.75 draws.
AS_MANY_SAMPLES = 105


def _one_seed(seed: int) -> Mapping[str, float]:
    form = loop_with(dapo(overlong=0.0), steps=STEPS, prompts=16, samples=8, lr=0.1, eval_every=0, save_every=0)
    plain = replace(form, resample=())
    arms = {
        "dynamic sampling": form,
        "without": plain,
        "without, as many samples": loop_with(plain, steps=AS_MANY_SAMPLES),
    }
    return {name: trained_accuracy(arm, model="table", task="bandit,level=10", seed=seed) for name, arm in arms.items()}


CLAIM = Claim(
    name="dapo",
    system="dapo",
    states="After 60 updates on a bandit with 10 % right arms and groups of 8, DAPO's sampled accuracy on unseen "
    "prompts exceeds that of the same run without dynamic sampling by more than 5 points.",
    unit="accuracy",
    one_seed=_one_seed,
    effect=lambda arms: arms["dynamic sampling"] - arms["without"],
    threshold=0.05,
)
