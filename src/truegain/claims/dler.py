"""DLER against GRPO under hard truncation, on a toy reasoner whose chains are three times as long as needed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from truegain.claims.chains import KINDS, Drawn, draw, start
from truegain.claims.claim import Claim
from truegain.claims.updates import loss_on, step_on
from truegain.core import arithmetic, segments
from truegain.core.batch import Batch
from truegain.core.forms import Train, members
from truegain.methods.length import selective_merge
from truegain.recipes.dler import dler
from truegain.recipes.grpo import grpo

STEPS, EPOCHS, PROMPTS, SAMPLES, LR = 150, 4, 32, 16, 0.05
LIMIT, ROOMY = 12, 96


def _batch(form: Train, drawn: Drawn, group: Tensor, logits: Tensor, first: Tensor) -> Batch:
    columns = Batch(
        mask=drawn.mask,
        group=group,
        correct=drawn.correct,
        truncated=drawn.truncated,
        old_logp=drawn.logp(logits.detach()),
        ref_logp=drawn.logp(first),
    )
    return arithmetic.reward_stage(form, columns, {"progress": 0.0, "step_index": 0, "max_tokens": LIMIT})[0]


def _signal(batch: Batch) -> Tensor:
    """Rows of the first `PROMPTS` groups whose rewards differ: what dynamic sampling arrives at."""
    group, reward = batch["group"], batch["reward"]
    mean = segments.spread(segments.mean(reward, group), group)
    live = segments.total((reward != mean).float(), group).nonzero().flatten()[:PROMPTS]
    return torch.isin(group, live).nonzero().flatten()


def _trained(form: Train, seed: int) -> Tensor:
    rng = torch.Generator().manual_seed(seed)
    first = start()
    logits = first.clone().requires_grad_()
    optimiser = torch.optim.Adam([logits], lr=LR, betas=(0.9, 0.99))
    refill = bool(members(form.resample))
    for _ in range(STEPS):
        asked = 3 * PROMPTS if refill else PROMPTS
        kind = torch.randint(KINDS, (asked,), generator=rng).repeat_interleave(SAMPLES)
        drawn, group = draw(logits, kind, LIMIT, rng), torch.arange(asked).repeat_interleave(SAMPLES)
        batch = _batch(form, drawn, group, logits, first)
        if refill:
            rows = _signal(batch)
            if not len(rows):
                continue
            drawn, batch = drawn.take(rows), batch.take(rows)
            batch = Batch(**{**batch, "group": segments.dense(batch["group"])})
        step = step_on(form, batch, LIMIT)
        for _ in range(EPOCHS):
            optimiser.zero_grad()
            loss_on(form, step, drawn.logp(logits)).backward()
            optimiser.step()
    return logits.detach()


def _measured(logits: Tensor, name: str, seed: int) -> dict[str, float]:
    """Accuracy and mean length with room for every chain."""
    kind = torch.arange(KINDS).repeat_interleave(2000)
    drawn = draw(logits, kind, ROOMY, torch.Generator().manual_seed(seed + 1000))
    length = drawn.mask.sum(dim=1).double().mean()
    return {name: float(drawn.correct.double().mean()), f"length, {name}": float(length)}


def _one_seed(seed: int) -> Mapping[str, float]:
    first, ours = start(), _trained(dler(), seed)
    theirs = _trained(replace(grpo(), reward=dler().reward), seed)
    merged = selective_merge({"logits": first}, {"logits": ours})["logits"]
    arms = {"start": first, "grpo": theirs, "dler": ours, "dler, merged": merged}
    return {key: value for name, logits in arms.items() for key, value in _measured(logits, name, seed).items()}


CLAIM = Claim(
    name="dler",
    system="dler",
    states="A toy reasoner whose chains are three times as long as needed is trained with every chain cut off at 12 "
    "steps and counted as wrong: its accuracy with room for every chain is more than 4 points higher after DLER than "
    "after GRPO.",
    unit="accuracy",
    one_seed=_one_seed,
    effect=lambda arms: arms["dler"] - arms["grpo"],
    threshold=0.04,
)
