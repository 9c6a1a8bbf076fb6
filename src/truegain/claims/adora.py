"""ADORA against GRPO where half the prompts need long chains, the others get worse by them, and the habit is shared."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from truegain.claims.claim import Claim
from truegain.claims.updates import loss_on, step_on
from truegain.core.batch import Batch
from truegain.core.forms import Train
from truegain.recipes.adora import adora
from truegain.recipes.grpo import grpo

LIMIT, NEEDED, PROMPTS, SAMPLES, UPDATES, LR = 32, 10, 32, 8, 20, 0.5
START = 1.5  # logit of going on: 5.5 tokens on average


def _lengths(logit: Tensor, rng: torch.Generator) -> Tensor:
    """Tokens until the policy stops, each row with its own logit of going on; LIMIT at most."""
    stops = torch.rand(len(logit), LIMIT, generator=rng) > logit.sigmoid()[:, None]
    stops[:, -1] = True
    return stops.int().argmax(dim=1) + 1


def _right(length: Tensor, hard: Tensor, rng: torch.Generator) -> Tensor:
    chance = torch.where(hard, torch.where(length >= NEEDED, 0.9, 0.05), 0.95 - 0.03 * length)
    return (torch.rand(len(length), generator=rng) < chance).float()


def _trained(form: Train, seed: int) -> tuple[float, float]:
    """Mean lengths on prompts that need a long chain and on the others, after training."""
    rng = torch.Generator().manual_seed(seed)
    group = torch.arange(PROMPTS * SAMPLES) // SAMPLES
    hard = group % 2 == 0
    shared, own = torch.tensor(START, requires_grad=True), torch.zeros(2, requires_grad=True)
    optimiser = torch.optim.SGD([shared, own], lr=LR)
    for _ in range(UPDATES):
        logit = shared + own[hard.long()]
        length = _lengths(logit.detach(), rng)
        place = torch.arange(1, LIMIT + 1)
        mask = place <= length[:, None]
        goes_on = torch.nn.functional.logsigmoid(logit)[:, None].expand(mask.shape)
        # The token limit ends a row without the policy's doing.
        stops = torch.where(place == LIMIT, 0.0, torch.nn.functional.logsigmoid(-logit)[:, None])
        logp = torch.where(place == length[:, None], stops, goes_on)
        correct = _right(length, hard, rng)
        batch = Batch(mask=mask, group=group, correct=correct, reward=correct, old_logp=logp.detach())
        optimiser.zero_grad()
        loss_on(form, step_on(form, batch, max_tokens=LIMIT), logp).backward()
        optimiser.step()
    with torch.no_grad():
        many = [(shared + own[kind]).expand(20_000) for kind in (1, 0)]
        return float(_lengths(many[0], rng).float().mean()), float(_lengths(many[1], rng).float().mean())


def _one_seed(seed: int) -> Mapping[str, float]:
    ours, theirs = _trained(adora(), seed), _trained(grpo(), seed)
    return {"adora": ours[0], "grpo": theirs[0], "adora, easy prompts": ours[1], "grpo, easy prompts": theirs[1]}


CLAIM = Claim(
    name="adora",
    system="adora",
    states="Half the prompts need 10 tokens or more, on the others every token costs accuracy, and part of the habit "
    "to go on is shared: after 20 equal updates ADORA writes more than 20 % longer on the first half than GRPO.",
    unit="share of GRPO's length",
    one_seed=_one_seed,
    effect=lambda arms: arms["adora"] / arms["grpo"] - 1,
    threshold=0.2,
)
