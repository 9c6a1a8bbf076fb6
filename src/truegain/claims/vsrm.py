"""VSRM against the outcome alone: steps that lead nowhere and steps that undo progress."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from truegain.claims.claim import Claim
from truegain.claims.updates import loss_on, step_on
from truegain.core import arithmetic, segments
from truegain.core.batch import Batch
from truegain.core.forms import Train
from truegain.methods import credit
from truegain.recipes.vsrm import vsrm

LIMIT, NEED, ROWS, PROBES, UPDATES, LR = 24, 5, 64, 5, 150, 0.5
ADVANCE, IDLE, BREAK, STOP = range(4)
FOLLOW = 0.2  # how fast the critic follows
FACTS = {"progress": 0.0, "step_index": 0, "max_tokens": LIMIT}
ACCURACY = torch.tensor([0.1, 0.2, 0.35, 0.55, 0.75, 0.95])  # of an answer forced at each state
START = torch.tensor([1.0, 1.0, 0.0, -1.0])


def _draw(logits: Tensor, rows: int, rng: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Action [B,T] (-1 after the end), the state before it and after it [B,T]."""
    state, alive = torch.zeros(rows, dtype=torch.long), torch.ones(rows, dtype=torch.bool)
    actions, before, after = list[Tensor](), list[Tensor](), list[Tensor]()
    odds = logits.softmax(-1)
    for _ in range(LIMIT):
        action = torch.multinomial(odds[state], 1, generator=rng)[:, 0]
        actions.append(torch.where(alive, action, -1))
        before.append(state)
        moved = state + (action == ADVANCE).long() - (action == BREAK).long()
        state = torch.where(alive, moved.clamp(0, NEED), state)
        after.append(state)
        alive = alive & (action != STOP)
    return torch.stack(actions, 1), torch.stack(before, 1), torch.stack(after, 1)


def _trained(form: Train, seed: int, rows: int) -> Tensor:
    """Logits after training, with a critic of one number per state that follows the mean of its targets."""
    rng = torch.Generator().manual_seed(seed)
    logits = START.repeat(NEED + 1, 1).requires_grad_()
    optimiser, value = torch.optim.SGD([logits], lr=LR), torch.zeros(NEED + 1)
    for _ in range(UPDATES):
        action, before, after = _draw(logits.detach(), rows, rng)
        mask = action >= 0
        asked = torch.rand(*mask.shape, PROBES, generator=rng) < ACCURACY[after][..., None]
        right = (torch.rand(rows, generator=rng) < ACCURACY[after[:, -1]]).float()
        chosen = logits.log_softmax(-1)[before, action.clamp(min=0)]
        logp = chosen.masked_fill(~mask, 0.0)
        batch = Batch(
            mask=mask, group=torch.arange(rows), correct=right, reward=right,
            step=torch.where(mask, torch.arange(LIMIT), -1), probe_correct=asked.float().mean(-1),
            old_logp=logp.detach(), old_value=value[before].masked_fill(~mask, 0.0),
        )  # fmt: skip
        advantages, _ = arithmetic.credit_stage(form, batch, FACTS)
        assert advantages[1] is not None
        state = torch.where(mask, before, -1)
        seen = segments.total(torch.ones_like(logp), state, NEED + 1) > 0
        target = segments.mean(advantages[1], state, NEED + 1)
        value = torch.where(seen, (1 - FOLLOW) * value + FOLLOW * target.detach(), value)
        optimiser.zero_grad()
        loss_on(form, step_on(form, batch, LIMIT), logp).backward()
        optimiser.step()
    return logits.detach()


def _one_seed(seed: int) -> Mapping[str, float]:
    ours = vsrm(estimator="ppo")
    policy, critic = ours.terms
    bare = (replace(policy, credit=(credit.gae, credit.whiten)), replace(critic, credit=credit.gae_returns))
    plain = replace(ours, terms=bare)
    # A forced answer is a token here, and each step has PROBES of them: the outcome alone gets as many more rows.
    arms = {"vsrm": (ours, ROWS), "outcome": (plain, ROWS * (1 + PROBES)), "outcome, as many rows": (plain, ROWS)}
    found: dict[str, float] = {}
    for name, (form, rows) in arms.items():
        action, _, after = _draw(_trained(form, seed, rows), 20_000, torch.Generator().manual_seed(seed + 1000))
        found[f"{name}: wasted steps"] = float(((action == IDLE) | (action == BREAK)).sum(1).double().mean())
        found[f"{name}: accuracy"] = float(ACCURACY[after[:, -1]].double().mean())
    return found


CLAIM = Claim(
    name="vsrm",
    system="vsrm",
    states="A chain may advance, idle, go back or stop: after 150 updates VSRM makes less than half the idle and "
    "backward steps of the outcome alone, which has the tokens of the probes in further rows; accuracy stands "
    "beside it.",
    unit="share of wasted steps saved",
    one_seed=_one_seed,
    effect=lambda arms: 1 - arms["vsrm: wasted steps"] / arms["outcome: wasted steps"],
    threshold=0.5,
)
