"""A generation batch for hosts that hand out its rows in pieces: shuffled, in micro-batches, over processes.

A host gathers the columns that `gathered` names from all its processes, so that every one of them holds the same
`Round`, computes the same numbers from it, and takes from it the rows that it trains on.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from truegain.core import arithmetic, segments
from truegain.core.arithmetic import Facts, Logs, OptimiserStep, merge
from truegain.core.batch import Batch
from truegain.core.component import spec_of
from truegain.core.errors import RunError
from truegain.core.forms import Train, members

OWN = frozenset({"logp", "entropy", "old_logp", "ref_logp", "engine_logp"})
"""Per-token columns that a process holds of its own rows. They are gathered only if more than a surrogate names one."""


def gathered(form: Train) -> frozenset[str]:
    """Columns that every process has to see of all rows."""
    stages = [form.reward, form.select, *(stage for term in form.terms for stage in (term.credit, term.weight))]
    early = {name for stage in stages for member in members(stage) for name in spec_of(member).inputs}
    return frozenset((arithmetic.named_columns(form) - OWN) | (early & OWN) | {"mask", "group"})


@dataclass
class Round:
    """What the stages made of a generation batch, and the optimiser step that is under way.

    ``place`` [rows drawn] is a drawn row's number in ``batch``, -1 for one that abstained or was not selected; ``at``
    [rows drawn] its number in ``step``, -1 for one that has no part in it.
    """

    form: Train
    facts: dict[str, Any]
    batch: Batch
    advantages: tuple[Tensor | None, ...]
    place: Tensor
    at: Tensor
    step: OptimiserStep | None = None
    logs: Logs = field(default_factory=Logs)

    def begin(self, rows: Tensor) -> None:
        """Weigh the optimiser step that trains on these drawn rows, whichever process holds them."""
        self.step, self.logs, self.at = None, Logs(), torch.full_like(self.place, -1)
        chosen = self.place[rows]
        inside = torch.zeros(self.batch.rows, dtype=torch.bool, device=self.place.device)
        inside[chosen[chosen >= 0]] = True
        if not bool(inside.any()):
            return
        part = self.batch["mask"] & inside[:, None]
        self.step = arithmetic.weigh(self.form, self.batch, self.advantages, part, self.facts, self.logs)
        number = torch.full((self.batch.rows,), -1, device=self.place.device)
        number[self.step.rows] = torch.arange(len(self.step.rows), device=self.place.device)
        self.at = torch.where(self.place >= 0, number[self.place.clamp(min=0)], -1)

    def loss(self, rows: Tensor, current: Mapping[str, Tensor], ratio: Tensor | None = None) -> tuple[Tensor, Logs]:
        """The share of these drawn rows in the step's loss: a sum with gradient, and its logs.

        ``current`` holds what this forward pass says of them, ``logp`` first, and the process's `OWN` columns.
        ``ratio`` [rows,T] or [rows,1] is a host's correction for who sampled: it multiplies the surrogates that name
        ``advantage``; penalties and bonuses stay whole, beside these in a term or in a term of their own.
        """
        at = self.at[rows]
        here = (at >= 0).nonzero().flatten()
        if self.step is None or not len(here):
            return current["logp"].new_zeros(()), Logs()
        index = at[here]
        width = min(current["logp"].shape[1], self.step.batch["mask"].shape[1])
        advantages = tuple(None if a is None else a[index, :width] for a in self.step.advantages)
        weights = tuple(weight[index, :width] for weight in self.step.weights)
        part = OptimiserStep(self.step.batch.take(index).narrow(width), index, advantages, weights, {})
        now = {name: value[here, :width] for name, value in current.items()}
        every, ratio = torch.arange(len(here), device=index.device), None if ratio is None else ratio[here, :width]
        return arithmetic.loss_of(self.form, part, every, now, self.facts, ratio=ratio)

    def drawn_advantages(self) -> Tensor:
        """What the first term's credit gave every drawn row, [rows drawn, T]; 0 for rows that are out."""
        given = next((a for a in self.advantages if a is not None), None)
        out = self.place.new_zeros((len(self.place), self.batch["mask"].shape[1]), dtype=torch.float32)
        inside = self.place >= 0
        if given is not None:
            out[inside] = given[self.place[inside]].to(out.dtype)
        return out

    def row_advantages(self) -> Tensor:
        """The mean of `drawn_advantages` over a row's own tokens, [rows drawn]."""
        mask = self.batch["mask"].new_zeros((len(self.place), self.batch["mask"].shape[1]))
        inside = self.place >= 0
        mask[inside] = self.batch["mask"][self.place[inside]]
        return (self.drawn_advantages() * mask).sum(dim=1) / mask.sum(dim=1).clamp(min=1)


def begin_round(form: Train, columns: Mapping[str, Tensor], abstained: Tensor, facts: Facts) -> tuple[Round, Logs]:
    """Reward, select and credit over the rows of all processes; rows that abstained are out before the reward.

    Raises RunError for a reward that is not finite.
    """
    drawn = abstained.shape[0]
    place = torch.full((drawn,), -1, device=abstained.device)
    judged = (~abstained).nonzero().flatten()
    batch = Batch(**columns).take(judged)
    logs: Logs = {"truegain/abstained": (float(abstained.sum()), 1.0)}
    if not batch.rows:
        return Round(form, dict(facts), batch, tuple(None for _ in form.terms), place, place.clone()), logs
    batch = Batch(**{**batch, "group": segments.dense(batch["group"])})
    batch, more = arithmetic.reward_stage(form, batch, facts)
    if bad := (~batch["reward"].isfinite()).nonzero().flatten().tolist():
        why = f"the reward of {len(bad)} rows is not finite (the first: {float(batch['reward'][bad[0]])})"
        raise RunError(f"step {facts['step_index']}: {why}; no weight was touched. Mend the reward function")
    batch, kept, selected = arithmetic.select_stage(form, batch, facts)
    advantages, credited = arithmetic.credit_stage(form, batch, facts) if batch.rows else ((), Logs())
    place[judged[kept]] = torch.arange(len(kept), device=place.device)
    advantages = advantages or tuple(None for _ in form.terms)
    return Round(form, dict(facts), batch, advantages, place, place.clone()), merge(logs, more, selected, credited)
