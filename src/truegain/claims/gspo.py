"""GSPO's ratio against the token ratio under noise in the log-probs, such as another engine or router makes."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from truegain.claims.claim import Claim
from truegain.claims.updates import loss_on, step_on
from truegain.core.batch import Batch
from truegain.core.forms import Train
from truegain.recipes.grpo import grpo
from truegain.recipes.gspo import gspo

ROWS, TOKENS, NOISE, CLIP = 64, 100, 0.3, 0.2


def _outside(form: Train, seed: int) -> float:
    """Share of tokens whose ratio lies outside the clip: a positive or a negative advantage would lose its gradient."""
    rng = torch.Generator().manual_seed(seed)
    old = -torch.rand(ROWS, TOKENS, generator=rng) * 3
    noisy = old + NOISE * torch.randn(ROWS, TOKENS, generator=rng)
    mask, group = torch.ones(ROWS, TOKENS, dtype=torch.bool), torch.arange(ROWS // 2).repeat_interleave(2)
    lost = torch.zeros(ROWS, TOKENS, dtype=torch.bool)
    for first in (1.0, 0.0):  # either row of a pair is the better one once
        reward = torch.tensor([first, 1 - first]).repeat(ROWS // 2)
        logp = noisy.clone().requires_grad_()
        batch = Batch(mask=mask, group=group, reward=reward, old_logp=old)
        loss_on(form, step_on(form, batch), logp).backward()
        assert logp.grad is not None
        lost |= logp.grad == 0
    return float(lost.double().mean())


def _one_seed(seed: int) -> Mapping[str, float]:
    row = gspo(clip_low=CLIP, clip_high=CLIP)
    return {"token ratio": _outside(grpo(clip=CLIP), seed), "row ratio": _outside(row, seed)}


CLAIM = Claim(
    name="gspo",
    system="gspo",
    states="Noise of deviation 0.3 in every log-prob of completions of 100 tokens puts a share of tokens outside a "
    "clip of 0.2 that is larger by more than 40 points under token ratios than under GSPO's ratio per completion.",
    unit="share of tokens",
    one_seed=_one_seed,
    effect=lambda arms: arms["token ratio"] - arms["row ratio"],
    threshold=0.4,
)
