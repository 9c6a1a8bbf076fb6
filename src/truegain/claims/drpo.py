"""DRPO against GRPO with a length penalty: what saving tokens costs where hard prompts need long answers."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from truegain.claims.claim import Claim
from truegain.claims.updates import loss_on, step_on
from truegain.core.batch import Batch
from truegain.core.errors import RunError
from truegain.core.forms import Train
from truegain.recipes.drpo import drpo
from truegain.recipes.grpo import grpo

PROMPTS, HARD, SAMPLES, LR, MOST = 32, 8, 8, 0.02, 2000
SHORT, LONG = 10, 40  # tokens; the limit is 50
RIGHT = torch.tensor([[0.9, 0.95], [0.1, 0.9]])  # easy and hard prompts: short and long form
START, SAVED, PENALTY = 0.9, 0.4, 0.5  # chance of the long form, share of tokens to save, price of a full-length answer


def _drop(form: Train, priced: bool, seed: int) -> float:
    """Accuracy lost when the mean length has fallen by `SAVED`."""
    rng = torch.Generator().manual_seed(seed)
    kind = (torch.arange(PROMPTS) < HARD).long()
    logits = torch.full((PROMPTS,), START).logit().requires_grad_()
    optimiser = torch.optim.Adam([logits], lr=LR, betas=(0.9, 0.99))
    group = torch.arange(PROMPTS).repeat_interleave(SAMPLES)
    before = _length_and_accuracy(logits.detach(), kind)
    for _ in range(MOST):
        length, accuracy = _length_and_accuracy(logits.detach(), kind)
        if length <= (1 - SAVED) * before[0]:
            return before[1] - accuracy
        long = torch.rand(len(group), generator=rng) < logits.detach().sigmoid()[group]
        right = torch.rand(len(group), generator=rng) < RIGHT[kind[group], long.long()]
        tokens = torch.where(long, LONG, SHORT)
        mask = torch.arange(LONG) < tokens[:, None]
        chosen = torch.nn.functional.logsigmoid(torch.where(long, logits[group], -logits[group]))
        # Every token carries the log-prob of the row's one choice: its mean, which both losses take, is that number.
        logp = chosen[:, None].expand(-1, LONG)
        reward = right.float() - (PENALTY * tokens / 50 * right if priced else 0.0)
        batch = Batch(mask=mask, group=group, reward=reward, correct=right.float(), old_logp=logp.detach())
        optimiser.zero_grad()
        loss_on(form, step_on(form, batch, 50), logp).backward()
        optimiser.step()
    raise RunError(f"claim drpo: {MOST} updates did not save {SAVED:.0%} of the tokens; there is nothing to compare")


def _length_and_accuracy(logits: Tensor, kind: Tensor) -> tuple[float, float]:
    long = logits.double().sigmoid()
    accuracy = (1 - long) * RIGHT[kind, 0] + long * RIGHT[kind, 1]
    return float((SHORT + (LONG - SHORT) * long).mean()), float(accuracy.mean())


def _one_seed(seed: int) -> Mapping[str, float]:
    return {"grpo, length penalty": _drop(grpo(), True, seed), "drpo": _drop(drpo(), False, seed)}


CLAIM = Claim(
    name="drpo",
    system="drpo",
    states="When the mean length has fallen by 40 %, on prompts of which a quarter need the long form, DRPO has "
    "lost less than half the accuracy that GRPO with a length penalty on right answers has lost.",
    unit="accuracy",
    one_seed=_one_seed,
    effect=lambda arms: arms["grpo, length penalty"] / 2 - arms["drpo"],
    threshold=0.0,
)
