"""The offline loop on labelled rows, written out: reward models with a head, or as language models. It resumes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from truegain.core import arithmetic
from truegain.core.batch import Batch
from truegain.core.columns import COLUMNS
from truegain.core.component import spec_of
from truegain.core.errors import DataError, RunError, WiringError
from truegain.core.forms import Fit, members
from truegain.policy.policy import Policy
from truegain.train.dataset import example_of
from truegain.train.learner import logp_pass, set_rates, update
from truegain.train.models import LOGPS, Model, load_models, width_of
from truegain.train.offline import Example
from truegain.train.order import in_order
from truegain.train.pairs import resume_models, save_models

Row = Mapping[str, Any]


def fit_heads(
    form: Fit,
    policy: Policy,
    rows: Sequence[Row],
    folder: Path,
    *,
    seed: int = 0,
    stop: Callable[[], str | None] = lambda: None,
    begin: Callable[[Mapping[str, Model]], None] = lambda models: None,
    hold: Callable[[Mapping[str, Model]], None] = lambda models: None,
) -> Iterator[dict[str, Any]]:
    """Train the form's reward models by its terms, on the rows of a data set; yield a line per optimiser step.

    A step takes ``loop.prompts`` rows, in the order of `in_order`. The facts of a row are the columns, by their names;
    frozen roles add their log-probs, where they are named.
    ``begin`` sets up fresh models, ``hold`` is handed them; ``folder/checkpoints`` gets a checkpoint every
    ``loop.save_every`` steps and at a stop.
    """
    models = load_models(form, policy, policy.reference())
    for model in models.values():
        if model.head is not None:
            width_of(model.policy)
    step, notes = resume_models(models, folder, begin)
    hold(models)
    for note in notes:
        yield {"kind": "note", "step": step, "text": note}
    saved, loop, place = step, form.loop, in_order(len(rows), seed)
    room = getattr(policy.model.config, "max_position_embeddings", None)
    while step < loop.steps and stop() is None:
        set_rates(models, loop, step)
        chosen = [rows[place(step * loop.prompts + i)] for i in range(loop.prompts)]
        examples = [example_of(policy, row, room) for row in chosen]
        facts = {"progress": step / loop.steps, "step_index": step, "max_tokens": loop.max_tokens}
        prompts = [e.prompt for e in examples]
        batch = add_references(form, models, columns_of(examples, chosen, policy.device), prompts)
        targets, _ = arithmetic.credit_stage(form, batch, facts)
        part = arithmetic.plan_stage(form, batch, targets, facts)[0][0]
        try:
            done = update(form, models, part, prompts, facts)
        except RunError as error:
            raise RunError(f"step {step + 1}: {error}") from error
        step += 1
        line = {"loss": sum(done.loss.values()), "grad_norm": max(done.grad_norm.values())}
        yield {"kind": "step", "step": step, **line}
        if loop.save_every and step % loop.save_every == 0:
            saved = save_models(models, folder, step)
    if saved != step:
        save_models(models, folder, step)


def check_heads(form: Fit) -> None:
    """Refuse a Fit that mixes reward models with the policy, or one that is none or has no lr. Raises WiringError."""
    for term in form.terms:
        role = form.roles.get(term.role)
        if role is None or role.lr is None or role.head == (role.fills in LOGPS):
            raise WiringError(
                "a Fit trains the policy alone, or reward models alone: roles with an lr, and head=True or "
                "fills='rm_logp'"
            )
    named(form)


def named(form: Fit) -> set[str]:
    """Columns that the terms read and a data set must hold. Raises WiringError for one that a role would have to."""
    stages = [stage for term in form.terms for stage in (term.credit, term.surrogate, term.weight)]
    inputs = {name: spec_of(m).full_name for stage in stages for m in members(stage) for name in spec_of(m).inputs}
    frozen = {role.fills for role in form.roles.values() if role.lr is None}
    for name in LOGPS:
        if name in inputs and name not in frozen:
            raise WiringError(
                f"{inputs[name]} needs column {name!r}, which comes from {COLUMNS[name].provider}: give the form a "
                f"frozen one"
            )
    current = {"value", "logp", "entropy", "target", "advantage", "tokens", "mask", "turn", "group"}
    return (inputs.keys() & COLUMNS.keys()) - current - set(LOGPS)


def add_references(form: Fit, models: Mapping[str, Model], batch: Batch, prompts: Sequence[tuple[int, ...]]) -> Batch:
    """The log-probs of frozen roles that a term names."""
    inputs = arithmetic.named_columns(form)
    for model in models.values():
        if model.role is not None and model.optimiser is None and model.role.fills in inputs & set(LOGPS):
            found = logp_pass(model.policy, prompts, batch, form.loop)
            batch = batch.add(**{model.role.fills: found})
    return batch


def columns_of(examples: Sequence[Example], rows: Sequence[Row], device: torch.device) -> Batch:
    """Examples and the facts of their rows as columns."""
    width = max(len(e.completion) for e in examples)
    tokens = _table([e.completion for e in examples], width, 0, torch.long)
    mask = _table([e.mask for e in examples], width, False, torch.bool)
    turn = _table([[0] * len(e.completion) for e in examples], width, -1, torch.long)
    found: dict[str, Tensor] = {"tokens": tokens, "mask": mask, "turn": turn, "group": torch.arange(len(rows))}
    for name in COLUMNS:
        values = [row.get(name) for row in rows]
        if name in found or any(value is None for value in values):
            continue
        column = COLUMNS[name]
        if column.shape == "B,T" and all(isinstance(value, list) for value in values):
            outside, kind = (-1, torch.long) if column.kind == "int" else (0, torch.float32)
            found[name] = _table([value[:width] for value in values if value is not None], width, outside, kind)
        elif column.shape.startswith("B,") and all(isinstance(value, list) for value in values):
            lists = [[float("nan") if x is None else float(x) for x in value] for value in values if value is not None]
            found[name] = _table(lists, max(map(len, lists)), float("nan"), torch.float32)
        elif column.shape == "B" and all(isinstance(value, int | float) for value in values):
            found[name] = torch.tensor([float(value) for value in values if value is not None])
    return Batch(**{name: value.to(device) for name, value in found.items()})


def _table(rows: Sequence[Sequence[Any]], width: int, fill: Any, dtype: torch.dtype) -> Tensor:
    if not rows:
        raise DataError("there are no rows to learn from")
    return torch.tensor([[*row, *[fill] * (width - len(row))] for row in rows], dtype=dtype).reshape(len(rows), width)
