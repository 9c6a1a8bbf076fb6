"""HDPO against one mixed reward, and against accuracy alone: a lookup that three prompts in ten need."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from truegain.claims.claim import Claim
from truegain.claims.updates import loss_on, step_on
from truegain.core import arithmetic
from truegain.core.batch import Batch
from truegain.core.forms import Train
from truegain.recipes.hdpo_metis import hdpo_metis

STEPS, PROMPTS, SAMPLES, LR = 200, 16, 8, 0.02
NEEDED, KNOWS, GUESSES = 0.3, 0.7, 0.1
CALLS = 4  # 0 to 3 calls
MIX = 0.15


def _chance_right(needed: Tensor, calls: Tensor) -> Tensor:
    """A row knows what it has to unless its prompt needs the lookup and it made none."""
    return torch.where(needed & (calls == 0), GUESSES, KNOWS)


def _trained(form: Train, seed: int, mixed: bool) -> dict[str, float]:
    """How often a tool is called where it is needed and where not, and the accuracy, after training."""
    rng = torch.Generator().manual_seed(seed)
    logits = torch.zeros(2, CALLS, requires_grad=True)  # one row for prompts without need, one for those with
    optimiser = torch.optim.Adam([logits], lr=LR, betas=(0.9, 0.99))
    group = torch.arange(PROMPTS).repeat_interleave(SAMPLES)
    for _ in range(STEPS):
        needed = (torch.rand(PROMPTS, generator=rng) < NEEDED)[group]
        chance = logits.detach().softmax(dim=1)[needed.long()]
        calls = torch.multinomial(chance, 1, generator=rng)[:, 0]
        right = (torch.rand(len(group), generator=rng) < _chance_right(needed, calls)).float()
        logp = logits[needed.long()].log_softmax(dim=1).gather(1, calls[:, None])
        batch = Batch(
            mask=torch.ones_like(logp, dtype=torch.bool),
            group=group,
            correct=right,
            answered=torch.ones_like(right),
            tool_calls=calls.float(),
            old_logp=logp.detach(),
        )
        batch, _ = arithmetic.reward_stage(form, batch, {})
        if mixed:
            batch = Batch(**{**batch, "reward": batch["reward"] + MIX * right / (calls + 1)})
        optimiser.zero_grad()
        loss_on(form, step_on(form, batch), logp).backward()
        optimiser.step()
    end = logits.detach().double().softmax(dim=1)
    counts = torch.arange(CALLS)
    accuracy = [float((end[n] * _chance_right(torch.tensor(bool(n)), counts)).sum()) for n in (0, 1)]
    return {
        "needed": 1 - float(end[1, 0]),
        "unneeded": 1 - float(end[0, 0]),
        "accuracy": (1 - NEEDED) * accuracy[0] + NEEDED * accuracy[1],
    }


def _one_seed(seed: int) -> Mapping[str, float]:
    form = hdpo_metis()
    accuracy_only = replace(form, terms=form.terms[:1])
    arms = {
        "hdpo": _trained(form, seed, mixed=False),
        "mixed": _trained(accuracy_only, seed, mixed=True),
        "accuracy only": _trained(accuracy_only, seed, mixed=False),
    }
    return {f"{name}, {what}": value for name, found in arms.items() for what, value in found.items()}


CLAIM = Claim(
    name="hdpo-metis",
    system="hdpo-metis",
    states="Where 30 % of prompts need a lookup, after 200 updates a policy calls on prompts that do not need it more "
    "than 1.5 times as often under GRPO on accuracy plus 0.15 times economy as under HDPO.",
    unit="ratio of unneeded calls",
    one_seed=_one_seed,
    effect=lambda arms: arms["mixed, unneeded"] / arms["hdpo, unneeded"],
    threshold=1.5,
)
