"""TRPA against GRPO on answers of four quality levels: format errors left, at the same accuracy."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from truegain.claims.claim import Claim
from truegain.claims.updates import loss_on, step_on
from truegain.core.batch import Batch
from truegain.core.forms import Train
from truegain.recipes.grpo import grpo
from truegain.recipes.trpa import trpa

PROMPTS, SAMPLES, STEPS, LR, TIE = 32, 16, 60, 0.05, 0.02
LEVELS = torch.tensor([1.0, 2.0, 2.0, 2.0, 3.0, 3.0, 4.0, 4.0])  # of each arm; 4 is a format error


def _start(seed: int) -> Tensor:
    """Logits [prompts, arms] at which the right arm is one of eight, some likelier than others."""
    return torch.randn(PROMPTS, len(LEVELS), generator=torch.Generator().manual_seed(seed))


def _trained(form: Train, seed: int) -> tuple[float, float]:
    """Format errors and accuracy after training on the levels, or on rewards that are linear in them."""
    rng = torch.Generator().manual_seed(seed)
    first = _start(seed)
    logits, before = first.clone().requires_grad_(), first.log_softmax(1)
    optimiser = torch.optim.Adam([logits], lr=LR, betas=(0.9, 0.99))
    group = torch.arange(PROMPTS).repeat_interleave(SAMPLES)
    for _ in range(STEPS):
        arms = torch.multinomial(logits.detach().softmax(1), SAMPLES, replacement=True, generator=rng).flatten()
        batch = Batch(
            mask=torch.ones(len(group), 1, dtype=torch.bool),
            group=group,
            level=LEVELS[arms],
            reward=(4 - LEVELS[arms]) / 3,
            ref_logp=before[group, arms, None],
            old_logp=logits.detach().log_softmax(1)[group, arms, None],
        )
        optimiser.zero_grad()
        loss_on(form, step_on(form, batch), logits.log_softmax(1)[group, arms, None]).backward()
        optimiser.step()
    chance = logits.detach().double().softmax(1)
    return float(chance[:, LEVELS == 4].sum(1).mean()), float(chance[:, LEVELS == 1].sum(1).mean())


def _one_seed(seed: int) -> Mapping[str, float]:
    ours, theirs = _trained(trpa(), seed), _trained(grpo(), seed)
    return {
        "trpa, format errors": ours[0],
        "grpo, format errors": theirs[0],
        "trpa, accuracy": ours[1],
        "grpo, accuracy": theirs[1],
    }


def _effect(arms: Mapping[str, float]) -> float:
    """The smaller of two margins, both to be above 0: format errors saved, and accuracy less 2 points."""
    saved = arms["grpo, format errors"] - arms["trpa, format errors"]
    return min(saved, arms["trpa, accuracy"] - arms["grpo, accuracy"] + TIE)


CLAIM = Claim(
    name="trpa",
    system="trpa",
    states="After 60 updates on answers of four levels TRPA makes fewer format errors than GRPO on rewards linear in "
    "the level, with an accuracy at most 2 points below GRPO's.",
    unit="smaller of: format errors saved, accuracy gained plus 0.02",
    one_seed=_one_seed,
    effect=_effect,
    threshold=0.0,
)
