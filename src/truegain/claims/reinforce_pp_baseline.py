"""REINFORCE++-baseline against GRPO on a batch of prompts whose rewards differ much and prompts whose hardly do."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch

from truegain.claims.claim import Claim
from truegain.claims.updates import step_on
from truegain.core.batch import Batch
from truegain.core.forms import Train
from truegain.recipes.grpo import grpo
from truegain.recipes.reinforce_pp_baseline import reinforce_pp_baseline

PROMPTS, SAMPLES, TOKENS, NARROW = 64, 8, 16, 0.01


def _ratio(form: Train, seed: int) -> float:
    """Mean size of an advantage in the prompts of reward deviation 1, by that in the prompts of deviation 0.01."""
    rng = torch.Generator().manual_seed(seed)
    group = torch.arange(PROMPTS * SAMPLES) // SAMPLES
    wide = group % 2 == 0
    reward = torch.randn(PROMPTS, generator=rng)[group]
    reward = reward + torch.randn(len(group), generator=rng) * torch.where(wide, 1.0, NARROW)
    mask = torch.arange(TOKENS) < torch.randint(1, TOKENS + 1, (len(group), 1), generator=rng)
    (advantage,) = step_on(form, Batch(mask=mask, group=group, reward=reward)).advantages
    assert advantage is not None
    return float(advantage[wide[:, None] & mask].abs().mean() / advantage[~wide[:, None] & mask].abs().mean())


def _one_seed(seed: int) -> Mapping[str, float]:
    return {"reinforce-pp-baseline": _ratio(reinforce_pp_baseline(), seed), "grpo": _ratio(grpo(), seed)}


CLAIM = Claim(
    name="reinforce-pp-baseline",
    system="reinforce-pp-baseline",
    states="In a batch of prompts whose rewards deviate by 1 and by 0.01, the two kinds' advantages differ in size by "
    "a factor that is more than 50 times as large under REINFORCE++-baseline as under GRPO, which makes them alike.",
    unit="decades",
    one_seed=_one_seed,
    effect=lambda arms: math.log10(arms["reinforce-pp-baseline"] / arms["grpo"]),
    threshold=math.log10(50),
)
