"""GRPO-lambda against a uniform length penalty where hard problems need long chains and the habit is shared."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from truegain.claims.claim import Claim
from truegain.claims.stops import lengths_of, logp_of, mask_of
from truegain.claims.updates import loss_on, step_on
from truegain.core import arithmetic
from truegain.core.batch import Batch
from truegain.core.forms import Train
from truegain.methods.reward import outcome
from truegain.recipes.grpo_lambda import grpo_lambda

LIMIT, PROMPTS, SAMPLES, UPDATES, LR = 32, 40, 8, 60, 0.5
START = 2.2  # logit of going on: 10 steps on average
FACTS = {"progress": 0.0, "step_index": 0, "max_tokens": LIMIT}


def _chance(length: Tensor, hard: Tensor) -> Tensor:
    """An easy problem is right at any length; a hard one needs 12 steps for its best."""
    return torch.where(hard, 0.05 + 0.8 * (length / 12).clamp(max=1), 0.95)


def _trained(form: Train, seed: int, name: str) -> dict[str, float]:
    rng = torch.Generator().manual_seed(seed)
    group = torch.arange(PROMPTS * SAMPLES) // SAMPLES
    hard = group % 2 == 0
    # What all problems share of the habit, and what belongs to easy and to hard ones.
    shared, own = torch.tensor(START, requires_grad=True), torch.zeros(2, requires_grad=True)
    optimiser = torch.optim.SGD([shared, own], lr=LR)
    for _ in range(UPDATES):
        go_on = (shared + own[hard.long()])[:, None].expand(-1, LIMIT)
        length = lengths_of(go_on.detach(), rng)
        logp = logp_of(go_on, length)
        right = (torch.rand(len(group), generator=rng) < _chance(length, hard)).float()
        batch = Batch(mask=mask_of(length, LIMIT), group=group, correct=right, old_logp=logp.detach())
        batch, _ = arithmetic.reward_stage(form, batch, FACTS)
        optimiser.zero_grad()
        loss_on(form, step_on(form, batch, LIMIT), logp).backward()
        optimiser.step()
    return _measured(float(shared.detach()), own.tolist(), name, rng)


def _measured(shared: float, own: list[float], name: str, rng: torch.Generator) -> dict[str, float]:
    out: dict[str, float] = {}
    for kind, word in ((1, "hard"), (0, "easy")):
        length = lengths_of(torch.full((20_000, LIMIT), shared + own[kind]), rng)
        hard = torch.full((20_000,), bool(kind))
        out[f"{name}: accuracy, {word}"] = float(_chance(length, hard).mean())
        out[f"{name}: length, {word}"] = float(length.double().mean())
    return out


def _one_seed(seed: int) -> Mapping[str, float]:
    arms = {
        "grpo": replace(grpo_lambda(), reward=outcome),
        "uniform": grpo_lambda(share=1.0),
        "grpo-lambda": grpo_lambda(),
    }
    return {key: value for name, form in arms.items() for key, value in _trained(form, seed, name).items()}


CLAIM = Claim(
    name="grpo-lambda",
    system="grpo-lambda",
    states="Half the problems are easy at any length, the others need 12 steps, and part of the habit to go on is "
    "shared: after 60 equal updates with alpha 0.2 the accuracy on hard problems is more than 5 points higher where "
    "only the best solved fifth of the groups pays for length than where all do; lengths and GRPO stand beside it.",
    unit="accuracy on hard problems",
    one_seed=_one_seed,
    effect=lambda arms: arms["grpo-lambda: accuracy, hard"] - arms["uniform: accuracy, hard"],
    threshold=0.05,
)
