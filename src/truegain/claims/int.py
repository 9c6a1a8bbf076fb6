"""InT against the outcome alone on a chain of eight steps that 0.4 % of the tries get through.

Compute counts actions: one for each that is drawn, proposals and continuations included, three for each that is
trained on. What InT spends before its reinforcement learning, the other arm spends on more updates.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from truegain.claims.claim import Claim
from truegain.claims.updates import loss_on, step_on
from truegain.core import arithmetic
from truegain.core.batch import Batch
from truegain.core.forms import Fit, Train
from truegain.recipes.int import int_

PLACES, ACTIONS, RIGHT, CHANCE = 8, 4, 0, 0.5
FIRST, PROPOSALS, CONTINUATIONS, SFT_STEPS = 64, 8, 32, 8
PROMPTS, SAMPLES, UPDATES, LR = 8, 8, 10, 8.0


def _start() -> Tensor:
    chances = torch.full((PLACES, ACTIONS), (1 - CHANCE) / (ACTIONS - 1))
    chances[:, RIGHT] = CHANCE
    return chances.log()


def _walked(logits: Tensor, rows: int, rng: torch.Generator) -> Tensor:
    """Actions [rows, places]."""
    return torch.multinomial(logits.softmax(1), rows, replacement=True, generator=rng).T


def _logp(logits: Tensor, walks: Tensor) -> Tensor:
    return logits.log_softmax(1)[torch.arange(PLACES), walks]


def _spliced(logits: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor, int]:
    """Failed walks up to their first wrong action, which is put right, with their masks, and what this took."""
    walks = _walked(logits, FIRST, rng)
    walks = walks[(walks != RIGHT).any(dim=1)]
    cut = (walks != RIGHT).int().argmax(dim=1)
    tries = torch.multinomial(logits.softmax(1)[cut], PROPOSALS, replacement=True, generator=rng)
    found = (tries == RIGHT).any(dim=1)
    ends = torch.stack([(_walked(logits, len(walks), rng) == RIGHT) for _ in range(CONTINUATIONS)])
    behind = torch.arange(PLACES) > cut[:, None]
    works = (ends | ~behind).all(dim=2).any(dim=0)
    spent = FIRST * PLACES + len(walks) * PROPOSALS + int(behind[found].sum()) * CONTINUATIONS
    kept = found & works
    rows = torch.arange(PLACES).expand(len(walks), -1)
    return torch.where(rows >= cut[:, None], RIGHT, walks)[kept], (rows <= cut[:, None])[kept], spent


def _fitted(form: Fit, logits: Tensor, walks: Tensor, mask: Tensor) -> int:
    """Learn the masked actions in place; returns what it took."""
    if not len(walks):
        return 0
    batch = Batch(tokens=walks, mask=mask, group=torch.arange(len(walks)))
    credit, _ = arithmetic.credit_stage(form, batch, {})
    step: Any = arithmetic.plan_stage(form, batch, credit, {})[0][0]
    for _ in range(SFT_STEPS):
        loss = arithmetic.loss_of(form, step, torch.arange(len(walks)), {"logp": _logp(logits, walks)}, {})[0]
        _descend(loss, logits)
    return 3 * SFT_STEPS * int(mask.sum())


def _descend(loss: Tensor, logits: Tensor) -> None:
    (grad,) = torch.autograd.grad(loss, logits)
    with torch.no_grad():
        logits -= LR * grad


def _trained(form: Train, logits: Tensor, updates: int, rng: torch.Generator) -> None:
    count = PROMPTS * SAMPLES
    for _ in range(updates):
        walks = _walked(logits.detach(), count, rng)
        batch = Batch(
            tokens=walks,
            mask=torch.ones(walks.shape, dtype=torch.bool),
            group=torch.arange(count) // SAMPLES,
            reward=(walks == RIGHT).all(dim=1).float(),
            old_logp=_logp(logits.detach(), walks),
        )
        _descend(loss_on(form, step_on(form, batch, PLACES), _logp(logits, walks)), logits)


def _success(logits: Tensor) -> float:
    return float(logits.detach().softmax(1)[:, RIGHT].prod())


def _one_seed(seed: int) -> Mapping[str, float]:
    _, fit, train = int_()
    per_update = 4 * PROMPTS * SAMPLES * PLACES
    rng, ours = torch.Generator().manual_seed(seed), _start().requires_grad_()
    walks, mask, spent = _spliced(ours.detach(), rng)
    spent += _fitted(fit, ours, walks, mask)
    before = _success(ours)
    _trained(train, ours, UPDATES, rng)
    # At least as much for the other arm: its share of an update is rounded up.
    more = -(-spent // per_update)
    rng, theirs = torch.Generator().manual_seed(seed), _start().requires_grad_()
    _trained(train, theirs, UPDATES + more, rng)
    rng, taught = torch.Generator().manual_seed(seed), _start().requires_grad_()
    whole = torch.full((max(len(walks), 1), PLACES), RIGHT)
    _fitted(fit, taught, whole, torch.ones(whole.shape, dtype=torch.bool))
    _trained(train, taught, UPDATES, rng)
    return {
        "base": _success(_start()),
        "int, before reinforcement": before,
        "int": _success(ours),
        "outcome alone": _success(theirs),
        "updates, outcome alone": float(UPDATES + more),
        "reference traces, then outcome": _success(taught),
    }


CLAIM = Claim(
    name="int",
    system="int",
    states="On a chain of eight steps of which each succeeds with chance 0.5, so that 0.4 % of the tries get through, "
    "learning prefixes with one corrected step and then the outcome gets through more than 5 points more often than "
    "the outcome alone at no less compute. The policy has one set of steps for all problems, so that whole reference "
    "traces teach at least as much; they stand beside it.",
    unit="success",
    one_seed=_one_seed,
    effect=lambda arms: arms["int"] - arms["outcome alone"],
    threshold=0.05,
    seeds=10,
)
