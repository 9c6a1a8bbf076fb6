"""RiskPO against GRPO on prompts of which half are nearly solved: what eight tries find on the hard half."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import cast

import torch
from torch import Tensor

from truegain.claims.claim import Claim
from truegain.claims.updates import loss_on, step_on
from truegain.core.batch import Batch
from truegain.core.component import Member
from truegain.core.forms import Train, members
from truegain.core.settings import with_setting
from truegain.recipes.grpo import grpo
from truegain.recipes.riskpo import riskpo

EASY, HARD, ARMS, SAMPLES, STEPS, LR, TRIES = 20, 20, 20, 10, 100, 0.02, 8
SOLVED, RARE = 0.95, 0.05  # chance of the one right arm at the start


def _start() -> Tensor:
    """Logits [prompts, arms]; arm 0 is right, the others are alike."""
    right = torch.cat([torch.full((EASY,), SOLVED), torch.full((HARD,), RARE)])
    logits = torch.zeros(EASY + HARD, ARMS)
    logits[:, 0] = (right * (ARMS - 1) / (1 - right)).log()
    return logits


def _found_on_the_hard_half(form: Train, seed: int) -> float:
    """Chance that one of `TRIES` samples is right, over the hard prompts, after training on all prompts."""
    rng = torch.Generator().manual_seed(seed)
    logits = _start().requires_grad_()
    optimiser = torch.optim.Adam([logits], lr=LR, betas=(0.9, 0.99))
    group = torch.arange(EASY + HARD).repeat_interleave(SAMPLES)
    folds: list[Member] = list(members(form.fold))
    states = [fold().init() for fold in folds]
    for _ in range(STEPS):
        arms = torch.multinomial(logits.detach().softmax(1), SAMPLES, replacement=True, generator=rng).flatten()
        batch = Batch(
            mask=torch.ones(len(group), 1, dtype=torch.bool),
            group=group,
            key=torch.randperm(len(group), generator=rng),
            reward=(arms == 0).float(),
            old_logp=logits.detach().log_softmax(1)[group, arms, None],
        )
        optimiser.zero_grad()
        loss_on(form, step_on(form, batch), logits.log_softmax(1)[group, arms, None]).backward()
        optimiser.step()
        for n, fold in enumerate(folds):
            states[n], out = fold().update(states[n], reward=batch["reward"], group=group, key=batch["key"])
            for path, value in out.items():
                form = cast(Train, with_setting(form, path, value))
    right = logits.detach().double().softmax(1)[EASY:, 0]
    found = float((1 - (1 - right) ** TRIES).mean())
    assert math.isfinite(found)
    return found


def _one_seed(seed: int) -> Mapping[str, float]:
    return {"grpo": _found_on_the_hard_half(grpo(), seed), "riskpo": _found_on_the_hard_half(riskpo(), seed)}


CLAIM = Claim(
    name="riskpo",
    system="riskpo",
    states="On 40 prompts, half of them solved at 95 % and half at 5 %, RiskPO's pass@8 on the hard half after 100 "
    "updates exceeds GRPO's by more than 5 points.",
    unit="pass@8 on the hard prompts",
    one_seed=_one_seed,
    effect=lambda arms: arms["riskpo"] - arms["grpo"],
    threshold=0.05,
)
