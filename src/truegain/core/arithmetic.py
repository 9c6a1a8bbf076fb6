"""The stage arithmetic, from columns to the loss: what our loop, TRL and verl all run.

    reward -> select -> per term: credit -> per optimiser step: weight -> per micro-batch: surrogate

Credit is computed once per rollout batch, weight once per optimiser step over all its rows. The loss is
``sum_terms scale * (surrogate * weight).sum()``, so the size of a micro-batch cannot change it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from truegain.core import segments
from truegain.core.batch import Batch
from truegain.core.columns import COSTLY
from truegain.core.component import Member, call, spec_of
from truegain.core.errors import WiringError
from truegain.core.forms import Decode, Fit, Stage, Term, Train, members

Facts = Mapping[str, Any]
Logs = dict[str, tuple[float, float]]
"""Metric name -> (sum, count), so that micro-batches and ranks add."""
Supply = Callable[[Batch, Tensor], Mapping[str, Tensor]]
"""(rows of an optimiser step, their numbers in the planned batch) -> its costly columns."""


@dataclass(frozen=True)
class OptimiserStep:
    """What one optimiser step trains on.

    ``batch`` holds its rows, numbered ``rows`` in the planned batch, with ``mask`` cut to the plan's part. Per term,
    ``advantages`` is what credit gave (None without credit) and ``weights`` the [B,T] weights. ``live[role]``, [B],
    is false for rows to which no term of the role gives a gradient: they are left out of that role's pass and still
    count in the denominators.
    """

    batch: Batch
    rows: Tensor
    advantages: tuple[Tensor | None, ...]
    weights: tuple[Tensor, ...]
    live: Mapping[str, Tensor]


def reward_stage(form: Train, batch: Batch, facts: Facts) -> tuple[Batch, Logs]:
    """Add ``reward_parts[B,K]`` by name and ``reward[B]``, their sum. A modifier's part is what it changed.

    To a modifier ``reward`` is the sum so far, and ``reward_parts`` are the named rewards so far.
    """
    logs: Logs = {}
    parts: list[Tensor] = []
    so_far = torch.zeros(batch.rows, dtype=torch.float32, device=_device(batch))
    for member in members(form.reward):
        spec = spec_of(member)
        modifies = spec.modifies is not None
        named = torch.stack(parts, dim=1) if parts else so_far.new_zeros(batch.rows, 0)
        offered = {**batch, "reward": so_far, "reward_parts": named} if modifies else batch
        value = _run(member, offered, facts, logs, (batch.rows,))
        part = value - so_far if modifies else value
        # A modifier's value is taken as it is: adding its part back would round, and break ties in a group.
        so_far = value if modifies else so_far + value
        parts.append(part)
        logs[f"rewards/{spec.name}/mean"] = (float(part.sum()), float(batch.rows))
    return batch.add(reward_parts=torch.stack(parts, dim=1), reward=so_far), logs


def select_stage(form: Train, batch: Batch, facts: Facts) -> tuple[Batch, Tensor, Logs]:
    """Drop the rows that selection refuses; members multiply, group ids are renumbered.

    Returns the batch of kept rows, their row numbers in the old batch, and the logs.
    """
    logs: Logs = {}
    keep = torch.ones(batch.rows, dtype=torch.float32, device=_device(batch))
    for member in members(form.select):
        keep = keep * _run(member, batch, facts, logs, (batch.rows,))
    index = (keep > 0).nonzero().flatten()
    if not members(form.select):
        return batch, index, logs
    logs["truegain/kept"] = (float(keep.sum()), float(batch.rows))
    kept = batch.add(keep=keep).take(index)
    return Batch(**{**kept, "group": segments.dense(kept["group"])}), index, logs


def credit_stage(form: Train | Fit, batch: Batch, facts: Facts) -> tuple[tuple[Tensor | None, ...], Logs]:
    """Per term, what its credit gives: [B,T], zero outside the mask; None for a term without credit."""
    logs: Logs = {}
    out: list[Tensor | None] = []
    for term in form.terms:
        value: Tensor | None = None
        for member in members(term.credit):
            shape = tuple(batch["mask"].shape)
            if spec_of(member).modifies is None:
                part = _run(member, batch, facts, logs, shape)
                value = part if value is None else value + part
            else:
                so_far = torch.zeros(shape, device=_device(batch)) if value is None else value
                value = _run(member, {**batch, "advantage": so_far}, facts, logs, shape)
        out.append(None if value is None else value.masked_fill(~batch["mask"], 0.0))
    return tuple(out), logs


def plan_stage(
    form: Train | Fit, batch: Batch, advantages: tuple[Tensor | None, ...], facts: Facts
) -> tuple[list[OptimiserStep], Logs]:
    """Cut the batch into optimiser steps and weigh each over all its rows. Without a plan there is one step."""
    parts, logs = plan_parts(form, batch, facts)
    return [weigh(form, batch, advantages, part, facts, logs) for part in parts], logs


def plan_parts(form: Train | Fit, batch: Batch, facts: Facts) -> tuple[list[Tensor], Logs]:
    """The parts of the plan in order, [B,T] each and within the mask; the whole mask without a plan."""
    logs: Logs = {}
    mask = batch["mask"]
    plan = members(form.plan) if isinstance(form, Train) else ()
    if not plan:
        return [mask], logs
    parts, extra = call(plan[0], batch, facts)
    _add(logs, extra, batch)
    if parts.dim() != 3 or tuple(parts.shape[1:]) != tuple(mask.shape):
        raise WiringError(f"{spec_of(plan[0]).full_name} gave shape {tuple(parts.shape)}, not [N,B,T]")
    return [part & mask for part in parts], logs


def renews(form: Train | Fit) -> bool:
    """Whether the form's plan asks for ``old_logp`` anew before each of its steps."""
    return isinstance(form, Train) and any(spec_of(member).renew for member in members(form.plan))


def weigh(
    form: Train | Fit,
    batch: Batch,
    advantages: tuple[Tensor | None, ...],
    part: Tensor,
    facts: Facts,
    logs: Logs,
    supply: Supply | None = None,
) -> OptimiserStep:
    """One optimiser step over the tokens of ``part`` [B,T]: its rows, and every term's weights over all of them.

    ``supply`` is asked for the costly columns of those rows if a weight names one; they are gone with the weights.
    """
    # Without a plan every row takes part, an empty one too: it counts where a weight counts rows.
    whole = torch.equal(part, batch["mask"])
    rows = torch.arange(batch.rows, device=part.device) if whole else part.any(dim=1).nonzero().flatten()
    columns = Batch(**{**batch, "mask": part}).take(rows)
    advantages = tuple(None if a is None else a[rows] for a in advantages)
    shape = tuple(columns["mask"].shape)
    costly: Mapping[str, Tensor] = supply(columns, rows) if supply is not None and named_costly(form) else {}
    weights: list[Tensor] = []
    live: dict[str, Tensor] = {}
    for term, advantage in zip(form.terms, advantages, strict=True):
        weight = columns["mask"].float() * term.scale
        offered = {**columns, **costly} if advantage is None else {**columns, **costly, "advantage": advantage}
        for member in members(term.weight):
            weight = weight * _run(member, offered, facts, logs, shape)
        weights.append(weight)
        felt = weight != 0
        if advantage is not None and _linear(term):
            felt = felt & (advantage != 0)
        rows_felt = felt.any(dim=1)
        live[term.role] = live[term.role] | rows_felt if term.role in live else rows_felt
    return OptimiserStep(columns, rows, advantages, tuple(weights), live)


def _linear(term: Term) -> bool:
    """Every surrogate names ``advantage``: by contract, a zero advantage then gives a zero gradient."""
    return all("advantage" in spec_of(member).inputs for member in members(term.surrogate))


def loss_of(
    form: Train | Fit,
    step: OptimiserStep,
    index: Tensor,
    current: Mapping[str, Tensor],
    facts: Facts,
    role: str = "policy",
    ratio: Tensor | None = None,
) -> tuple[Tensor, Logs]:
    """Sum of the role's terms over the rows ``index`` of a step: a scalar with gradient, and its logs.

    ``current`` holds the columns of this forward pass for those rows, ``[len(index), T']`` with T' at most T (shared
    padding may be cut): ``logp``, ``entropy`` or ``value`` with gradient, ``old_logp`` if the batch has none.
    ``ratio`` [len(index),T'] or [len(index),1] is a host's correction for who sampled, see `token_losses`.
    """
    width = next(iter(current.values())).shape[1]
    batch = step.batch.take(index)
    if bool(batch["mask"][:, width:].any()):
        raise WiringError(f"the current columns are {width} tokens wide, but the mask reaches beyond; widen them")
    columns = {**batch.narrow(width), **current}
    mask = columns["mask"]
    # What the forward pass says of padding may be anything, and a NaN there would reach the weights by its gradient.
    columns |= {name: c.masked_fill(~mask, 0.0) for name, c in current.items() if c.shape == mask.shape}
    logs: Logs = {}
    loss = torch.zeros((), device=mask.device)
    for term, advantage, weight in zip(form.terms, step.advantages, step.weights, strict=True):
        if term.role != role:
            continue
        offered = dict(columns)
        if advantage is not None:
            offered["advantage"] = offered["target"] = advantage[index, :width]
        per_token, extra = token_losses(term, offered, facts, ratio)
        logs = merge(logs, extra)
        loss = loss + (per_token * weight[index, :width]).sum()
    return loss, logs


def token_losses(
    term: Term, columns: Mapping[str, Tensor], facts: Facts, ratio: Tensor | None = None
) -> tuple[Tensor, Logs]:
    """The sum of a term's surrogates at each token, [B,T], zero outside ``mask``: for hosts that aggregate themselves.

    ``columns`` are those of the forward pass beside ``mask``, and ``advantage`` where the term's surrogates name it.
    ``ratio`` [B,T] or [B,1], learner over sampler, multiplies the surrogates that name ``advantage``: a penalty or a
    bonus beside them in the same term stays whole.
    """
    mask = columns["mask"]
    corrected = None if ratio is None else torch.where(mask, ratio, 0.0)
    logs: Logs = {}
    per_token = torch.zeros(mask.shape, device=mask.device)
    for member in members(term.surrogate):
        value = _run(member, columns, facts, logs, tuple(mask.shape), mask)
        if corrected is not None and "advantage" in spec_of(member).inputs:
            value = value * corrected
        per_token = per_token + value
    # Outside the mask a surrogate may hold anything, NaN included: it is cut before the product.
    return per_token.masked_fill(~mask, 0.0), logs


def named_columns(form: Train | Fit | Decode) -> frozenset[str]:
    """Every column that some component of the form names; the loop computes no costly column beyond these."""
    found: set[str] = set()
    if isinstance(form, Decode):
        return frozenset()
    stages: list[Stage] = [s for t in form.terms for s in (t.credit, t.surrogate, t.weight)]
    if isinstance(form, Train):
        stages += [form.probe, form.reward, form.select, form.plan, form.fold]
    for stage in stages:
        for member in members(stage):
            found.update(spec_of(member).inputs)
    return frozenset(found)


def named_costly(form: Train | Fit) -> frozenset[str]:
    """The costly columns that a weight of the form names."""
    return COSTLY & {name for t in form.terms for m in members(t.weight) for name in spec_of(m).inputs}


def names_fact(form: Train | Fit, fact: str) -> bool:
    """Whether a component of some term names a loop fact."""
    stages = [stage for t in form.terms for stage in (t.credit, t.surrogate, t.weight)]
    return any(fact in spec_of(member).facts for stage in stages for member in members(stage))


def needs_old_pass(form: Train | Fit | Decode) -> bool:
    """Whether ``old_logp`` has to be computed before the update.

    With one optimiser step per batch it equals ``logp`` without its gradient, unless something before the surrogate
    names it.
    """
    if not isinstance(form, Train):
        return False
    early = [m for stage in (form.probe, form.reward, form.select, form.plan) for m in members(stage)]
    early += [m for t in form.terms for stage in (t.credit, t.weight) for m in members(stage)]
    named_early = renews(form) or any("old_logp" in spec_of(m).inputs for m in early)
    return named_early or (bool(members(form.plan)) and "old_logp" in named_columns(form))


def _run(
    member: Member,
    columns: Mapping[str, Tensor],
    facts: Facts,
    logs: Logs,
    shape: tuple[int, ...],
    mask: Tensor | None = None,
) -> Tensor:
    value, extra = call(member, columns, facts)
    if tuple(value.shape) != shape:
        raise WiringError(f"{spec_of(member).full_name} gave shape {tuple(value.shape)}; it must give {list(shape)}")
    _add(logs, extra, columns, mask)
    return value


def _add(logs: Logs, extra: Mapping[str, Any], columns: Mapping[str, Tensor], mask: Tensor | None = None) -> None:
    """Add logs: a [B,T] tensor counts by masked token, a [B] tensor by row, a scalar as it is."""
    for name, value in extra.items():
        tensor = torch.as_tensor(value).detach()
        if tensor.dim() == 2:
            chosen = columns["mask"] if mask is None else mask
            pair = (float(tensor.float().masked_fill(~chosen, 0.0).sum()), float(chosen.sum()))
        elif tensor.dim() == 1:
            pair = (float(tensor.float().sum()), float(tensor.numel()))
        else:
            pair = (float(tensor), 1.0)
        before = logs.get(name, (0.0, 0.0))
        logs[name] = (before[0] + pair[0], before[1] + pair[1])


def merge(*several: Logs) -> Logs:
    """Add logs of micro-batches or stages."""
    out: Logs = {}
    for logs in several:
        for name, (value, count) in logs.items():
            before = out.get(name, (0.0, 0.0))
            out[name] = (before[0] + value, before[1] + count)
    return out


def _device(batch: Mapping[str, Tensor]) -> torch.device:
    return next(iter(batch.values())).device
