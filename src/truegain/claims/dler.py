"""DLER against GRPO under hard truncation, on a toy reasoner whose chains are three times as long as needed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from truegain.claims.claim import Claim
from truegain.claims.updates import loss_on, step_on
from truegain.core import arithmetic, segments
from truegain.core.batch import Batch
from truegain.core.forms import Train, members
from truegain.methods.length import selective_merge
from truegain.recipes.dler import dler
from truegain.recipes.grpo import grpo

KINDS, STEPS, EPOCHS, PROMPTS, SAMPLES, LR = 6, 150, 4, 32, 16, 0.05
LIMIT, ROOMY = 12, 96
WORK, FILLER, STOP = 0, 1, 2
KNOWS, GUESSES = 0.95, 0.1
NEED = torch.arange(2, 2 + KINDS)  # steps of work that each kind of problem takes: 2 to 7
MOST = int(NEED[-1])


@dataclass(frozen=True)
class Drawn:
    """Chains of B rows: what was chosen [B,T], how much work was done before [B,T], which tokens there are."""

    kind: Tensor
    action: Tensor
    done: Tensor
    mask: Tensor
    correct: Tensor
    truncated: Tensor

    def logp(self, logits: Tensor) -> Tensor:
        """Log-probs of the chosen actions."""
        chosen = logits.log_softmax(-1)[self.kind[:, None], self.done, self.action]
        return chosen.masked_fill(~self.mask, 0.0)

    def take(self, rows: Tensor) -> Drawn:
        """Some of the rows."""
        return Drawn(**{name: getattr(self, name)[rows] for name in self.__dataclass_fields__})


def _start() -> Tensor:
    """Logits [kind, work done, action]: one useful step in three, and a stop once the work is done, rarely before."""
    ready = torch.arange(MOST + 1)[None, :] >= NEED[:, None]
    before, after = torch.tensor([0.332, 0.663, 0.005]), torch.tensor([0.1, 0.4, 0.5])
    return torch.where(ready[..., None], after, before).log()


def _draw(logits: Tensor, kind: Tensor, limit: int, rng: torch.Generator) -> Drawn:
    """Sample a chain for each row: right with 95 % if its work was done when it stopped, else a guess."""
    odds = logits.detach().softmax(-1)
    rows = len(kind)
    done, alive = torch.zeros(rows, dtype=torch.long), torch.ones(rows, dtype=torch.bool)
    actions, states, masks = list[Tensor](), list[Tensor](), list[Tensor]()
    for _ in range(limit):
        action = torch.multinomial(odds[kind, done], 1, generator=rng)[:, 0]
        actions.append(action)
        states.append(done)
        masks.append(alive)
        done = torch.where(alive & (action == WORK), done + 1, done).clamp(max=MOST)
        alive = alive & (action != STOP)
    chance = torch.where(done >= NEED[kind], KNOWS, GUESSES)
    right = (torch.rand(rows, generator=rng) < chance) & ~alive
    chosen, before, mask = (torch.stack(parts, dim=1) for parts in (actions, states, masks))
    return Drawn(kind, chosen, before, mask, right.float(), alive)


def _batch(form: Train, drawn: Drawn, group: Tensor, logits: Tensor, start: Tensor) -> Batch:
    columns = Batch(
        mask=drawn.mask,
        group=group,
        correct=drawn.correct,
        truncated=drawn.truncated,
        old_logp=drawn.logp(logits.detach()),
        ref_logp=drawn.logp(start),
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
    start = _start()
    logits = start.clone().requires_grad_()
    optimiser = torch.optim.Adam([logits], lr=LR, betas=(0.9, 0.99))
    refill = bool(members(form.resample))
    for _ in range(STEPS):
        asked = 3 * PROMPTS if refill else PROMPTS
        kind = torch.randint(KINDS, (asked,), generator=rng).repeat_interleave(SAMPLES)
        drawn, group = _draw(logits, kind, LIMIT, rng), torch.arange(asked).repeat_interleave(SAMPLES)
        batch = _batch(form, drawn, group, logits, start)
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
    drawn = _draw(logits, kind, ROOMY, torch.Generator().manual_seed(seed + 1000))
    length = drawn.mask.sum(dim=1).double().mean()
    return {name: float(drawn.correct.double().mean()), f"length, {name}": float(length)}


def _one_seed(seed: int) -> Mapping[str, float]:
    start, ours = _start(), _trained(dler(), seed)
    theirs = _trained(replace(grpo(), reward=dler().reward), seed)
    merged = selective_merge({"logits": start}, {"logits": ours})["logits"]
    arms = {"start": start, "grpo": theirs, "dler": ours, "dler, merged": merged}
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
