"""The learner's half of a step: from columns to new weights. Used by both loops; hosts bring their own."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from truegain.core.arithmetic import Facts, Logs, OptimiserStep, loss_of, merge, named_columns
from truegain.core.batch import Batch
from truegain.core.component import spec_of
from truegain.core.errors import RunError
from truegain.core.forms import Fit, Loop, Train, members
from truegain.policy.candidates import token_candidates
from truegain.policy.heads import ScalarHead, token_values
from truegain.policy.logprobs import token_logp
from truegain.policy.policy import Policy
from truegain.train.models import Model

Prompts = Sequence[tuple[int, ...]]


@dataclass(frozen=True)
class Updated:
    """What one optimiser step did: by role, its loss, its gradient norm and the rows that went through its model."""

    loss: Mapping[str, float]
    grad_norm: Mapping[str, float]
    passed: Mapping[str, Tensor]
    logs: Logs


def learning_rate(loop: Loop, step: int, peak: float | None = None) -> float:
    """Linear warm-up to ``peak`` (``loop.lr`` if None), then constant, linear or cosine to 0 at the last step."""
    peak = loop.lr if peak is None else peak
    if step < loop.warmup:
        return peak * (step + 1) / loop.warmup
    share = (step - loop.warmup) / max(loop.steps - loop.warmup, 1)
    if loop.decay == "linear":
        return peak * (1 - share)
    if loop.decay == "cosine":
        return peak * (1 + math.cos(math.pi * share)) / 2
    return peak


def set_rates(models: Mapping[str, Model], loop: Loop, step: int) -> None:
    """Give every optimiser the `learning_rate` of this step; a role's own ``lr`` is its peak."""
    for model in models.values():
        for group in () if model.optimiser is None else model.optimiser.param_groups:
            group["lr"] = learning_rate(loop, step, model.role.lr if model.role else None)


def token_counts(batch: Mapping[str, Tensor]) -> Tensor:
    """Completion tokens of each row [B], tool output included: up to the last turn's end."""
    inside = batch["turn"] >= 0
    places = torch.arange(1, inside.shape[1] + 1, device=inside.device)
    return (inside * places).amax(dim=1) if inside.shape[1] else inside.sum(dim=1)


def cut_micro(sizes: Tensor, limit: int, group: Tensor, whole: bool = False) -> list[Tensor]:
    """Cut rows into micro-batches of at most ``limit`` padded tokens, by length so that little is padded.

    ``sizes[B]`` counts tokens, prompt included. Rows of a group stay together, as they share a prompt; a group beyond
    the limit is cut up, unless ``whole`` asks for whole groups. A single row beyond the limit stands alone.

    >>> groups = torch.tensor([0, 0, 1, 1])
    >>> [part.tolist() for part in cut_micro(torch.tensor([4, 9, 5, 2]), 18, groups)]
    [[2, 3], [0, 1]]
    >>> [part.tolist() for part in cut_micro(torch.tensor([4, 9, 5, 2]), 10, groups)]
    [[0], [2, 3], [1]]
    """
    units: list[Tensor] = []
    for g in torch.unique(group).tolist():
        unit = (group == g).nonzero().flatten()
        fits = whole or len(unit) * int(sizes[unit].max()) <= limit
        units += [unit] if fits else list(unit[torch.argsort(sizes[unit], stable=True)].split(1))
    units.sort(key=lambda unit: int(sizes[unit].max()))
    parts: list[list[Tensor]] = []
    count = 0
    for unit in units:
        longest = int(sizes[unit].max())
        if parts and (count + len(unit)) * longest <= limit:
            parts[-1].append(unit)
            count += len(unit)
        else:
            parts.append([unit])
            count = len(unit)
    return [torch.cat(part) for part in parts]


def logp_pass(policy: Policy, prompts: Prompts, batch: Batch, loop: Loop, temperature: float | None = None) -> Tensor:
    """Log-probs [B,T] of every completion token under a model, without gradient; at the loop's temperature if None."""
    temperature = loop.temperature if temperature is None else temperature

    def part(chosen: Prompts, tokens: Tensor, lengths: Tensor) -> Tensor:
        return token_logp(policy, chosen, tokens, lengths, temperature=temperature, grad=False)[0]

    return _pass(part, prompts, batch, loop)


def value_pass(model: Model, prompts: Prompts, batch: Batch, loop: Loop, after: bool = False) -> Tensor:
    """A head's numbers [B,T] without gradient: of the state before each token, or with it (``after``)."""

    def part(chosen: Prompts, tokens: Tensor, lengths: Tensor) -> Tensor:
        return token_values(model.policy, _head(model), chosen, tokens, lengths, after=after, grad=False)

    return _pass(part, prompts, batch, loop)


def costly_pass(policy: Policy, prompts: Prompts, batch: Batch, loop: Loop) -> dict[str, Tensor]:
    """``hidden`` [B,T,H], ``top_ids`` and ``top_logp`` [B,T,C] of the rows of one optimiser step, by micro-batches.

    What outlives a micro-batch are H + 2 C numbers per token, in the model's own precision; logits do not.
    """
    out: dict[str, Tensor] = {}
    lengths = token_counts(batch)
    for index in cut_micro(_sizes(lengths, prompts), loop.micro_tokens, batch["group"]):
        width = int(lengths[index].max())
        chosen, tokens = [prompts[i] for i in index.tolist()], batch["tokens"][index, :width]
        found = token_candidates(policy, chosen, tokens, lengths[index], loop.candidates, temperature=loop.temperature)
        for name, value in found.items():
            if name not in out:
                out[name] = value.new_zeros(*batch["tokens"].shape, value.shape[2])
            out[name][index, :width] = value
    return out


def _pass(part: Callable[[Prompts, Tensor, Tensor], Tensor], prompts: Prompts, batch: Batch, loop: Loop) -> Tensor:
    out = torch.zeros(batch["tokens"].shape, device=batch["tokens"].device)
    lengths = token_counts(batch)
    with torch.no_grad():
        for index in cut_micro(_sizes(lengths, prompts), loop.micro_tokens, batch["group"]):
            width = int(lengths[index].max())
            chosen = [prompts[i] for i in index.tolist()]
            out[index, :width] = part(chosen, batch["tokens"][index, :width], lengths[index]).to(out)
    return out


def _sizes(lengths: Tensor, prompts: Prompts) -> Tensor:
    return lengths + torch.tensor([len(p) for p in prompts], device=lengths.device)


def _head(model: Model) -> ScalarHead:
    assert model.head is not None
    return model.head


def update(
    form: Train | Fit, models: Mapping[str, Model], step: OptimiserStep, prompts: Prompts, facts: Facts
) -> Updated:
    """One optimiser step of every role that a term trains: forward and backward by micro-batches, clip, check, step.

    ``prompts`` belong to the rows of ``step.batch``. Raises RunError before a weight of any role is touched when a loss
    or a gradient is not finite; its ``rows`` attribute holds the rows of the micro-batches whose loss was not finite.
    """
    losses: dict[str, float] = {}
    norms: dict[str, float] = {}
    logs: Logs = {}
    try:
        for role in dict.fromkeys(term.role for term in form.terms):
            losses[role], more = _accumulate(form, models[role], step, prompts, facts)
            logs = merge(logs, more)
        # All roles are checked before the first one steps; a head on the policy's body gives gradient to both.
        for model in models.values():
            if any(p.grad is not None for p in model.parameters):
                norms[model.name] = _clipped_norm(model, form.loop.grad_clip, step)
        for name in norms:
            models[name].step()
    finally:
        for model in models.values():
            model.zero_grad()
    return Updated(losses, norms, {role: _rows(step.live[role]) for role in losses}, logs)


def _rows(live: Tensor) -> Tensor:
    return live.nonzero().flatten()


def _accumulate(
    form: Train | Fit, model: Model, step: OptimiserStep, prompts: Prompts, facts: Facts
) -> tuple[float, Logs]:
    """Forward and backward of one role's terms over its live rows. Returns its loss and logs."""
    batch, passed = step.batch, _rows(step.live[model.name])
    lengths = token_counts(batch)
    terms = [term for term in form.terms if term.role == model.name]
    whole = any("group" in spec_of(m).inputs for term in terms for m in members(term.surrogate))
    loss, logs, bad = 0.0, Logs(), list[int]()
    sizes = _sizes(lengths, prompts)
    for part in cut_micro(sizes[passed], form.loop.micro_tokens, batch["group"][passed], whole=whole):
        index = passed[part]
        width = int(lengths[index].max())
        chosen = [prompts[i] for i in index.tolist()]
        current = _current(form, model, batch, chosen, index, batch["tokens"][index, :width], lengths[index])
        part_loss, part_logs = loss_of(form, step, index, current, facts, model.name)
        value = float(part_loss.detach())
        if not math.isfinite(value):
            bad.extend(index.tolist())
            continue
        part_loss.backward()
        loss += value
        logs = merge(logs, part_logs, _pass_logs(batch, index, current))
    if bad:
        raise _not_finite(f"the loss of {len(bad)} rows", model, bad)
    return loss, logs


def _current(
    form: Train | Fit, model: Model, batch: Batch, prompts: Prompts, index: Tensor, tokens: Tensor, lengths: Tensor
) -> dict[str, Tensor]:
    """The columns that come with a forward pass of the role's model, with gradient."""
    if model.head is not None:
        # A critic judges the state before a token, a reward model what has been written.
        after = model.role is not None and model.role.fills != "value"
        found = {"value": token_values(model.policy, model.head, prompts, tokens, lengths, after=after)}
        return found | _own_old_value(form, model.name, batch, index, tokens.shape[1])
    temperature = form.loop.temperature
    logp, entropy = token_logp(model.policy, prompts, tokens, lengths, temperature=temperature, entropy=True)
    assert entropy is not None
    current = {"logp": logp, "entropy": entropy}
    if "old_logp" in named_columns(form) and "old_logp" not in batch:
        current["old_logp"] = logp.detach()
    return current


def _own_old_value(form: Train | Fit, role: str, batch: Batch, index: Tensor, width: int) -> dict[str, Tensor]:
    """One of several critics calls its own column of ``old_values`` ``old_value``."""
    critics = [name for name, other in form.roles.items() if other.fills == "value"]
    if len(critics) < 2 or "old_values" not in batch:
        return {}
    return {"old_value": batch["old_values"][index, :width, critics.index(role)]}


def _pass_logs(batch: Batch, index: Tensor, current: Mapping[str, Tensor]) -> Logs:
    if "logp" not in current:
        return {}
    logp, entropy = current["logp"].detach(), current["entropy"].detach()
    mask = batch["mask"][index, : logp.shape[1]]
    count = float(mask.sum())
    logs: Logs = {"entropy": (float(entropy[mask].sum()), count)}
    if "engine_logp" in batch:
        gap = (logp - batch["engine_logp"][index, : logp.shape[1]])[mask].abs()
        logs["truegain/engine_gap"] = (float(gap.sum()), count)
    return logs


def _clipped_norm(model: Model, largest: float, step: OptimiserStep) -> float:
    norm = float(torch.nn.utils.clip_grad_norm_(model.parameters, largest))
    if not math.isfinite(norm):
        live = step.live.get(model.name, torch.zeros(0, dtype=torch.bool))
        raise _not_finite(f"the gradient norm ({norm})", model, _rows(live).tolist())
    return norm


def _not_finite(what: str, model: Model, rows: list[int]) -> RunError:
    of = "" if model.name == "policy" else f" of role {model.name!r}"
    error = RunError(f"{what}{of} is not finite; no weight was touched. Lower lr or look at the saved rows")
    error.rows = rows  # pyright: ignore[reportAttributeAccessIssue]
    return error
