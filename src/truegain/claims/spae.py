"""SPAE against its own outcome credit on a chain that may check an answer again and again: how much it still checks."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from truegain.claims.claim import Claim
from truegain.claims.updates import loss_on, step_on
from truegain.core.batch import Batch
from truegain.core.forms import Train
from truegain.recipes.spae import spae

STEPS, GROUPS, SAMPLES, UPDATES, LR = 16, 8, 8, 100, 1.0
SOLVE, GOOD, FLIP = 0.6, 0.8, 0.03  # work finds an answer, which is right; a check overturns what it is about
START = 1.7  # logit of going on: 85 %
OPEN, RIGHT, WRONG = 0, 1, 2
FORCED_RIGHT, FORCED_SURE, PROBES = (0.2, 0.97, 0.03), (0.3, 0.97, 0.97), 5


def _rollouts(go_on: Tensor, rows: int, rng: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Action [B,T] (1 goes on, 0 stops, -1 after the end), the state before it and after it [B,T].

    The policy sees whether there is an answer, not whether it is right: ``go_on`` [2] are its logits.
    """
    state = torch.full((rows,), OPEN)
    alive = torch.ones(rows, dtype=torch.bool)
    actions, before, after = [], [], []
    for _ in range(STEPS):
        chance = go_on.sigmoid()[(state != OPEN).long()]
        going = alive & (torch.rand(rows, generator=rng) < chance)
        actions.append(torch.where(alive, going.long(), -1))
        before.append(state)
        luck, quality = torch.rand(2, rows, generator=rng)
        found = torch.where(quality < GOOD, RIGHT, WRONG)
        worked = torch.where(luck < SOLVE, found, OPEN)
        checked = torch.where(luck < FLIP, RIGHT + WRONG - state, state)
        state = torch.where(going, torch.where(state == OPEN, worked, checked), state)
        after.append(state)
        alive = going
    return torch.stack(actions, 1), torch.stack(before, 1), torch.stack(after, 1)


def _trained(form: Train, seed: int) -> Tensor:
    rng = torch.Generator().manual_seed(seed)
    logits = torch.full((2,), START, requires_grad=True)
    rows = GROUPS * SAMPLES
    for _ in range(UPDATES):
        action, before, after = _rollouts(logits.detach(), rows, rng)
        mask = action >= 0
        chance = torch.tensor(FORCED_RIGHT)[after]
        probes = torch.rand(*mask.shape, PROBES, generator=rng) < chance[..., None]
        own = logits[(before != OPEN).long()]
        logp = torch.where(action == 1, own, -own)
        logp = torch.nn.functional.logsigmoid(logp).masked_fill(~mask, 0.0)
        batch = Batch(
            mask=mask,
            group=torch.arange(rows) // SAMPLES,
            reward=(after[:, -1] == RIGHT).float(),
            # To stop is said at the end of a step, as in a trace, and is no step of its own.
            step=torch.where(mask, (torch.arange(STEPS) - (action == 0).long()).clamp(min=0), -1),
            probe_correct=probes.float().mean(-1),
            probe_confidence=torch.tensor(FORCED_SURE)[after],
            old_logp=logp.detach(),
        )
        (grad,) = torch.autograd.grad(loss_on(form, step_on(form, batch), logp), logits)
        with torch.no_grad():
            logits -= LR * grad
    return logits.detach()


def _measured(logits: Tensor, seed: int) -> tuple[float, float, float]:
    """Checks per rollout, accuracy, and the share of rollouts that were right once and ended wrong."""
    action, before, after = _rollouts(logits, 20_000, torch.Generator().manual_seed(seed + 1000))
    checks = ((action == 1) & (before != OPEN)).sum(1).float().mean()
    right = after[:, -1] == RIGHT
    lost = (after == RIGHT).any(1) & ~right
    return float(checks), float(right.float().mean()), float(lost.float().mean())


def _one_seed(seed: int) -> Mapping[str, float]:
    arms: dict[str, float] = {}
    for name, form in {"spae": spae(), "outcome alone": spae(damping=0.0, bonus=0.0)}.items():
        checks, accuracy, lost = _measured(_trained(form, seed), seed)
        arms |= {f"{name}: checks": checks, f"{name}: accuracy": accuracy, f"{name}: right to wrong": lost}
    return arms


CLAIM = Claim(
    name="spae",
    system="spae",
    states="On a chain whose answer may be checked again and again, after 100 updates SPAE checks less than half as "
    "often per rollout as the same credit without damping and bonus; accuracy and the share of answers that turned "
    "from right to wrong stand beside it.",
    unit="share of checks saved",
    one_seed=_one_seed,
    effect=lambda arms: 1 - arms["spae: checks"] / arms["outcome alone: checks"],
    threshold=0.5,
)
