"""The learner's half of a step: from columns to new weights. Used by the online loop; hosts bring their own."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from truegain.core.arithmetic import Facts, Logs, OptimiserStep, loss_of, merge, named_columns
from truegain.core.batch import Batch
from truegain.core.component import spec_of
from truegain.core.errors import RunError
from truegain.core.forms import Fit, Loop, Train, members
from truegain.policy.logprobs import token_logp
from truegain.policy.policy import Policy

Prompts = Sequence[tuple[int, ...]]


@dataclass(frozen=True)
class Updated:
    """What one optimiser step did. ``passed`` are the rows that went through the model."""

    loss: float
    grad_norm: float
    passed: Tensor
    logs: Logs


def make_optimiser(policy: Policy, loop: Loop) -> torch.optim.AdamW:
    """AdamW over every trainable weight; decay on matrices only."""
    trainable = [p for p in policy.model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trainable if p.dim() > 1], "weight_decay": loop.weight_decay},
        {"params": [p for p in trainable if p.dim() <= 1], "weight_decay": 0.0},
    ]
    betas = (loop.beta1, loop.beta2)
    return torch.optim.AdamW([g for g in groups if g["params"]], lr=loop.lr, betas=betas, fused=True)


def parameter_names(policy: Policy, optimiser: torch.optim.Optimizer) -> list[str]:
    """Names of the weights in the optimiser's order, for its checkpoint."""
    by_id = {id(p): name for name, p in policy.model.named_parameters()}
    return [by_id[id(p)] for group in optimiser.param_groups for p in group["params"]]


def learning_rate(loop: Loop, step: int) -> float:
    """Linear warm-up, then constant, linear or cosine to 0 at the last step."""
    if step < loop.warmup:
        return loop.lr * (step + 1) / loop.warmup
    share = (step - loop.warmup) / max(loop.steps - loop.warmup, 1)
    if loop.decay == "linear":
        return loop.lr * (1 - share)
    if loop.decay == "cosine":
        return loop.lr * (1 + math.cos(math.pi * share)) / 2
    return loop.lr


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
    out = torch.zeros(batch["tokens"].shape, device=policy.device)
    lengths = token_counts(batch)
    sizes = lengths + torch.tensor([len(p) for p in prompts])
    with torch.no_grad():
        for index in cut_micro(sizes, loop.micro_tokens, batch["group"]):
            width = int(lengths[index].max())
            chosen = [prompts[i] for i in index.tolist()]
            tokens = batch["tokens"][index, :width]
            logp, _ = token_logp(policy, chosen, tokens, lengths[index], temperature=temperature, grad=False)
            out[index, :width] = logp
    return out


def update(
    form: Train | Fit,
    policy: Policy,
    optimiser: torch.optim.Optimizer,
    step: OptimiserStep,
    prompts: Prompts,
    facts: Facts,
) -> Updated:
    """One optimiser step on the policy: forward and backward by micro-batches, clip, check, step.

    ``prompts`` belong to the rows of ``step.batch``. Raises RunError before a weight is touched when the loss or the
    gradient is not finite; its ``rows`` attribute holds the rows of the micro-batches whose loss was not finite.
    """
    loop, batch = form.loop, step.batch
    named = named_columns(form)
    lengths = token_counts(batch)
    sizes = lengths + torch.tensor([len(p) for p in prompts])
    passed = step.live.nonzero().flatten()
    spread_over_group = any("group" in spec_of(m).inputs for term in form.terms for m in members(term.surrogate))
    loss, logs, bad = 0.0, Logs(), list[int]()
    optimiser.zero_grad(set_to_none=True)
    for part in cut_micro(sizes[passed], loop.micro_tokens, batch["group"][passed], whole=spread_over_group):
        index = passed[part]
        width = int(lengths[index].max())
        logp, entropy = token_logp(
            policy,
            [prompts[i] for i in index.tolist()],
            batch["tokens"][index, :width],
            lengths[index],
            temperature=loop.temperature,
            entropy=True,
        )
        assert entropy is not None
        current = {"logp": logp, "entropy": entropy}
        if "old_logp" in named and "old_logp" not in batch:
            current["old_logp"] = logp.detach()
        part_loss, part_logs = loss_of(form, step, index, current, facts)
        value = float(part_loss.detach())
        if not math.isfinite(value):
            bad.extend(index.tolist())
            continue
        part_loss.backward()
        loss += value
        logs = merge(logs, part_logs, _pass_logs(batch, index, width, logp, entropy))
    return _finish(policy, optimiser, loss, logs, passed, bad, loop)


def _pass_logs(batch: Batch, index: Tensor, width: int, logp: Tensor, entropy: Tensor) -> Logs:
    mask = batch["mask"][index, :width]
    count = float(mask.sum())
    logs: Logs = {"entropy": (float(entropy.detach()[mask].sum()), count)}
    if "engine_logp" in batch:
        gap = (logp.detach() - batch["engine_logp"][index, :width])[mask].abs()
        logs["truegain/engine_gap"] = (float(gap.sum()), count)
    return logs


def _finish(
    policy: Policy,
    optimiser: torch.optim.Optimizer,
    loss: float,
    logs: Logs,
    passed: Tensor,
    bad: list[int],
    loop: Loop,
) -> Updated:
    if not passed.numel():
        return Updated(0.0, 0.0, passed, logs)
    trainable: list[Any] = [p for group in optimiser.param_groups for p in group["params"]]
    norm = float(torch.nn.utils.clip_grad_norm_(trainable, loop.grad_clip)) if not bad else math.nan
    if bad or not math.isfinite(norm):
        optimiser.zero_grad(set_to_none=True)
        what = f"the loss of {len(bad)} rows" if bad else f"the gradient norm ({norm})"
        error = RunError(f"{what} is not finite; no weight was touched. Lower lr or look at the saved rows")
        error.rows = bad or passed.tolist()  # pyright: ignore[reportAttributeAccessIssue]
        raise error
    optimiser.step()
    optimiser.zero_grad(set_to_none=True)
    return Updated(loss, norm, passed, logs)
