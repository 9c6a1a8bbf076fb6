"""VeRPO against GRPO on pass or fail: programs with three holes, six unit tests, three of them one easy test."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import product

import torch
from torch import Tensor

from truegain.claims.claim import Claim
from truegain.claims.updates import loss_on, step_on
from truegain.core import arithmetic
from truegain.core.batch import Batch
from truegain.core.forms import Train
from truegain.recipes.grpo import grpo
from truegain.recipes.verpo import verpo
from truegain.tasks._interpreter import parse, run

PROBLEMS, SAMPLES, LIMIT, LR, GOAL = 4, 10, 300, 0.1, 0.9
DIGITS = 10


def _passes(rng: torch.Generator) -> Tensor:
    """Which tests each of the 1000 fillings of ``if(x<a,b*x,x+c)`` passes, [1000, 6], for a reference of the seed's."""
    a, b, c = (int(torch.randint(low, 10, (), generator=rng)) for low in (3, 2, 1))
    programs = [parse(f"if(x<{h},{i}*x,x+{j})") for h, i, j in product(range(DIGITS), repeat=3)]
    reference = parse(f"if(x<{a},{b}*x,x+{c})")
    # One input of the first branch three times, then both sides of the border, then a large one.
    inputs = (1, 1, 1, a - 1, a, 15)
    return torch.tensor([[float(run(p, x) == run(reference, x)) for x in inputs] for p in programs])


def _steps_needed(form: Train, seed: int) -> float:
    """Updates until programs drawn from the policy pass all tests nine times in ten; `LIMIT` if they never do."""
    rng = torch.Generator().manual_seed(seed)
    passes = torch.stack([_passes(rng) for _ in range(PROBLEMS)])
    logits = torch.zeros(PROBLEMS, 3, DIGITS, requires_grad=True)
    optimiser = torch.optim.Adam([logits], lr=LR, betas=(0.9, 0.99))
    group = torch.arange(PROBLEMS).repeat_interleave(SAMPLES)
    for step in range(LIMIT):
        chance = logits.detach().softmax(dim=2)
        each = chance[:, 0, :, None, None] * chance[:, 1, None, :, None] * chance[:, 2, None, None, :]
        if float((each.reshape(PROBLEMS, -1) * passes.amin(dim=2)).sum(dim=1).mean()) >= GOAL:
            return float(step)
        drawn = torch.multinomial(chance[group].reshape(-1, DIGITS), 1, generator=rng).reshape(-1, 3)
        found = passes[group, drawn @ torch.tensor([100, 10, 1])]
        logp = logits[group].log_softmax(dim=2).gather(2, drawn[:, :, None])[:, :, 0]
        mask = torch.ones_like(drawn, dtype=torch.bool)
        batch = Batch(mask=mask, turn=drawn * 0, group=group, correct=found.amin(dim=1), test_pass=found)
        batch, _ = arithmetic.reward_stage(form, batch.add(old_logp=logp.detach()), {})
        optimiser.zero_grad()
        loss_on(form, step_on(form, batch), logp).backward()
        optimiser.step()
    return float(LIMIT)


def _one_seed(seed: int) -> Mapping[str, float]:
    forms = {"grpo": grpo(), "verpo": verpo(), "tests alike": verpo(alpha=0.0, density="none")}
    return {name: _steps_needed(form, seed) for name, form in forms.items()}


CLAIM = Claim(
    name="verpo",
    system="verpo",
    states="Filling three holes of a program under six unit tests, three of them one easy test, GRPO on pass or "
    "fail needs more than 1.5 times as many updates (300 at most) as VeRPO until nine in ten samples pass all tests.",
    unit="ratio of updates",
    one_seed=_one_seed,
    effect=lambda arms: arms["grpo"] / arms["verpo"],
    threshold=1.5,
)
