"""SeeUPO against one update of both turns at once, in a two-turn game of coordination at a high learning rate."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from truegain.claims.claim import Claim
from truegain.claims.updates import loss_on, one_term
from truegain.core import arithmetic
from truegain.core.batch import Batch
from truegain.core.forms import Train
from truegain.methods import objective
from truegain.recipes.seeupo import seeupo
from truegain.train.shaping import renewed

# The two turns must choose the same action, and neither sees the other's; the first pair pays best.
PAYS, GAMES, SAMPLES, UPDATES, LR = (1.0, 0.8, 0.6), 100, 8, 60, 20.0
START = 2.0  # deviation of the first logits: many games begin with turns that are sure of different actions
FACTS = {"progress": 0.0, "step_index": 0, "max_tokens": 2}


def _logp(logits: Tensor, actions: Tensor) -> Tensor:
    """Log-probs [B,2] of each turn's action; every game has logits [2,A] of its own, and a group of rows."""
    rows = logits.log_softmax(2).repeat_interleave(SAMPLES, dim=0)
    return rows.gather(2, actions[:, :, None])[:, :, 0]


def _update(form: Train, logits: Tensor, batch: Batch, lr: float) -> None:
    """Every step of the form's plan, with plain gradient descent."""
    advantages, _ = arithmetic.credit_stage(form, batch, FACTS)
    parts, _ = arithmetic.plan_parts(form, batch, FACTS)
    actions = batch["tokens"]
    batch = batch.add(shift=torch.full((batch.rows, len(parts)), float("nan")))
    for n, tokens in enumerate(parts):
        step = arithmetic.weigh(form, batch, advantages, tokens, FACTS, {})
        (grad,) = torch.autograd.grad(loss_on(form, step, _logp(logits, actions)), logits)
        with torch.no_grad():
            # The loss is a mean over all rows; each game's step is that of its own rows.
            logits -= lr * GAMES * grad
        batch = renewed(batch, _logp(logits.detach(), actions), tokens, n)


def _played(form: Train, seed: int, lr: float) -> tuple[float, float]:
    """The share of games that end at the best pair, and the mean expected return."""
    rng, pays = torch.Generator().manual_seed(seed), torch.tensor(PAYS)
    logits = (START * torch.randn(GAMES, 2, len(PAYS), generator=rng)).requires_grad_()
    for _ in range(UPDATES):
        chances = logits.detach().softmax(2).flatten(0, 1)
        drawn = torch.multinomial(chances, SAMPLES, replacement=True, generator=rng)
        actions = drawn.reshape(GAMES, 2, SAMPLES).transpose(1, 2).flatten(0, 1)
        matched = actions[:, 0] == actions[:, 1]
        batch = Batch(
            tokens=actions,
            mask=torch.ones(len(actions), 2, dtype=torch.bool),
            turn=torch.tensor([0, 1]).expand(len(actions), 2),
            group=torch.arange(GAMES).repeat_interleave(SAMPLES),
            reward=torch.where(matched, pays[actions[:, 0]], 0.0),
            old_logp=_logp(logits.detach(), actions),
        )
        _update(form, logits, batch, lr)
    both = logits.detach().softmax(2).prod(1)
    return float((both[:, 0] > 0.5).float().mean()), float((both @ pays).mean())


def _one_seed(seed: int) -> Mapping[str, float]:
    ours = seeupo(beta=0.0)
    alone = one_term(ours, weight=objective.sequence_mean)
    # In one step a row's two tokens share its weight: twice the rate gives each turn the same step as alone.
    forms = {"seeupo": (ours, LR), "one after another, no ratio": (alone, LR)}
    forms["forward"] = (replace(ours, plan=partial(objective.turns_in_order, order="forward")), LR)
    forms["at once"] = (replace(alone, plan=()), 2 * LR)
    arms: dict[str, float] = {}
    for name, (form, lr) in forms.items():
        arms[name], arms[f"{name}: return"] = _played(form, seed, lr)
    return arms


CLAIM = Claim(
    name="seeupo",
    system="seeupo",
    states="In a game where two turns must choose the same of three actions unseen, and one pair pays best, after 60 "
    "large updates the share of games that end at the best pair is larger by more than 20 points under SeeUPO than "
    "under one update of both turns at once.",
    unit="share of games",
    one_seed=_one_seed,
    effect=lambda arms: arms["seeupo"] - arms["at once"],
    threshold=0.2,
    seeds=5,
)
