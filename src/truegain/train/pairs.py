"""The offline loop on pairs, written out: reward models and preference losses. It resumes to the same numbers."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from truegain.core.arithmetic import Facts
from truegain.core.component import call, spec_of
from truegain.core.errors import DataError, RunError, WiringError
from truegain.core.forms import Fit, members
from truegain.core.types import Pair
from truegain.policy.heads import at_last, token_values
from truegain.policy.logprobs import token_logp
from truegain.policy.policy import Policy
from truegain.train import checkpoint
from truegain.train.learner import cut_micro, set_rates
from truegain.train.models import Model, load_models, optimisers_saved, restore_models, width_of, write_models
from truegain.train.order import in_order

FROM_ROLE = {"reward": "model_reward", "ref_logp": "ref_logp"}
"""Columns of a side that a role gives, and what that role fills. ``logp`` is the policy's."""
SIDES = ("chosen", "rejected")
PAIR_IDS = ("prompt_ids", "chosen_ids", "rejected_ids")
"""Meta of a pair whose tokens are those that were drawn. Its sides may go on, so no end mark is added."""


@dataclass(frozen=True)
class PairIds:
    """A pair as token ids, each completion with its end mark."""

    prompt: tuple[int, ...]
    chosen: tuple[int, ...]
    rejected: tuple[int, ...]


def pair_ids(policy: Policy, pair: Pair) -> PairIds:
    """Tokens of a pair, those that were drawn where it has them; what is longer than the model reads loses its end.

    Raises DataError when the prompt leaves no room at all.
    """
    room = getattr(policy.model.config, "max_position_embeddings", None)
    if all(name in pair.meta for name in PAIR_IDS):
        prompt, chosen, rejected = (tuple(pair.meta[name]) for name in PAIR_IDS)
    else:
        mark = policy.tokenizer.eos_token_id
        end = () if mark is None else (int(mark),)
        prompt = policy.encode_prompt(pair.prompt)
        chosen, rejected = ((*policy.encode(text), *end) for text in (pair.chosen, pair.rejected))
    left = None if room is None else int(room) - len(prompt)
    if left is not None and left < 1:
        raise DataError(f"pair {pair.id}: its prompt has {len(prompt)} tokens, the model reads {room}; shorten it")
    return PairIds(prompt, chosen[:left], rejected[:left])


def fit_pairs(
    form: Fit,
    policy: Policy,
    pairs: Sequence[PairIds],
    folder: Path,
    *,
    seed: int = 0,
    stop: Callable[[], str | None] = lambda: None,
    begin: Callable[[Mapping[str, Model]], None] = lambda models: None,
    hold: Callable[[Mapping[str, Model]], None] = lambda models: None,
) -> Iterator[dict[str, Any]]:
    """Train the policy and the form's roles in place by its pair losses; yield a line per optimiser step.

    A step takes ``loop.prompts`` pairs, in the order of `in_order`. ``begin`` sets up fresh models; ``hold`` is handed
    them, fresh or resumed. ``folder/checkpoints`` gets a checkpoint every ``loop.save_every`` steps and when ``stop``
    has a reason; the same folder goes on. Raises WiringError for a column that nobody gives, RunError before a weight
    is touched for a loss that is not finite.
    """
    check_pairs(form)
    if not pairs:
        raise DataError("there are no pairs to learn from")
    models = load_models(form, policy, policy.reference())
    if (head := _head(models)) is not None:
        width_of(head.policy)
    folder.mkdir(parents=True, exist_ok=True)
    step, notes = resume_models(models, folder, begin)
    hold(models)
    for note in notes:
        yield {"kind": "note", "step": step, "text": note}
    saved, place = step, in_order(len(pairs), seed)
    while step < form.loop.steps and stop() is None:
        set_rates(models, form.loop, step)
        first = step * form.loop.prompts
        chosen = [pairs[place(first + i)] for i in range(form.loop.prompts)]
        facts = {"progress": step / form.loop.steps, "step_index": step, "max_tokens": form.loop.max_tokens}
        try:
            line = update_pairs(form, models, chosen, facts)
        except RunError as error:
            raise RunError(f"step {step + 1}, pairs {first} to {first + len(chosen) - 1}: {error}") from error
        step += 1
        yield {"kind": "step", "step": step, **line}
        if form.loop.save_every and step % form.loop.save_every == 0:
            saved = save_models(models, folder, step)
    if saved != step:
        save_models(models, folder, step)


def check_pairs(form: Fit) -> None:
    """Refuse a form that the loop on pairs cannot run. Raises WiringError naming column, component and giver."""
    if not form.pair or form.terms:
        raise WiringError("the loop on pairs takes a Fit with pair losses and no terms; `truegain fit sft` runs terms")
    filled = {role.fills for role in form.roles.values()}
    for member in members(form.pair):
        for name in spec_of(member).inputs:
            column = name.partition("_")[2]
            if column in ("logp", "mask") or FROM_ROLE.get(column) in filled:
                continue
            mend = f"give the form a role that fills {FROM_ROLE[column]!r}" if column in FROM_ROLE else "no loop has it"
            raise WiringError(f"{spec_of(member).full_name} needs column {name!r}, which nobody gives: {mend}")
    heads = [name for name, role in form.roles.items() if role.head]
    if len(heads) > 1:
        raise WiringError(f"a Fit on pairs trains one head at a time, not {', '.join(heads)}: fit members one by one")


def update_pairs(form: Fit, models: Mapping[str, Model], pairs: Sequence[PairIds], facts: Facts) -> dict[str, float]:
    """One optimiser step on the mean pair loss: forward and backward by micro-batches, clip, check, step.

    Both sides of a pair are in one micro-batch, whose size changes no number. Raises RunError before a weight is
    touched when the loss or a gradient is not finite.
    """
    sizes = torch.tensor([len(p.prompt) + max(len(p.chosen), len(p.rejected)) for p in pairs])
    logs: dict[str, float] = {"loss": 0.0}
    try:
        for part in cut_micro(2 * sizes, form.loop.micro_tokens, torch.arange(len(pairs))):
            losses, more = pair_losses(form, models, [pairs[i] for i in part.tolist()], facts)
            loss = losses.sum() / len(pairs)
            if not math.isfinite(float(loss.detach())):
                raise RunError("the loss is not finite; no weight was touched. Lower lr or look at these pairs")
            loss.backward()
            for name, value in {**more, "loss": losses.detach().sum()}.items():
                logs[name] = logs.get(name, 0.0) + float(value) / len(pairs)
        trained = [m for m in models.values() if any(p.grad is not None for p in m.parameters)]
        norms = [float(torch.nn.utils.clip_grad_norm_(m.parameters, form.loop.grad_clip)) for m in trained]
        if not all(map(math.isfinite, norms)):
            raise RunError("the gradient is not finite; no weight was touched. Lower lr or look at these pairs")
        for model in trained:
            model.step()
    finally:
        for model in models.values():
            model.zero_grad()
    return {**logs, "grad_norm": math.hypot(*norms)}


def pair_losses(
    form: Fit, models: Mapping[str, Model], pairs: Sequence[PairIds], facts: Facts
) -> tuple[Tensor, dict[str, Tensor]]:
    """The form's pair losses [N], members added, and sums over the pairs for the log."""
    named = {name for member in members(form.pair) for name in spec_of(member).inputs}
    columns: dict[str, Tensor] = {}
    for side in SIDES:
        wanted = {name.removeprefix(f"{side}_") for name in named if name.startswith(side)}
        given = side_columns(form, models, pairs, side, wanted)
        columns |= {f"{side}_{name}": value for name, value in given.items()}
    losses = torch.zeros(len(pairs), device=models["policy"].policy.device)
    logs: dict[str, Tensor] = {}
    for member in members(form.pair):
        value, more = call(member, columns, facts)
        if tuple(value.shape) != (len(pairs),):
            raise WiringError(f"{spec_of(member).full_name} gave shape {tuple(value.shape)}; it must give [N]")
        losses = losses + value
        logs |= {name: torch.as_tensor(v).detach().sum() for name, v in more.items()}
    if {"chosen_reward", "rejected_reward"} <= columns.keys():
        ahead = columns["chosen_reward"].detach() - columns["rejected_reward"].detach()
        logs |= {"rewards/margins": ahead.sum(), "rewards/accuracies": ((ahead > 0) + 0.5 * (ahead == 0)).sum()}
    return losses, logs


def side_columns(
    form: Fit, models: Mapping[str, Model], pairs: Sequence[PairIds], side: str, wanted: set[str]
) -> dict[str, Tensor]:
    """What one side of the pairs gets: ``mask`` and ``logp`` [N,T], ``ref_logp`` [N,T], ``reward`` [N]."""
    rows = [getattr(pair, side) for pair in pairs]
    device = models["policy"].policy.device
    lengths = torch.tensor([len(row) for row in rows], device=device)
    tokens = torch.zeros(len(rows), max(1, int(lengths.max())), dtype=torch.long)
    for i, row in enumerate(rows):
        tokens[i, : len(row)] = torch.tensor(row, dtype=torch.long)
    tokens, prompts = tokens.to(device), [pair.prompt for pair in pairs]
    found: dict[str, Tensor] = {}
    if "mask" in wanted:
        found["mask"] = torch.arange(tokens.shape[1], device=device)[None, :] < lengths[:, None]
    if "logp" in wanted:
        found["logp"] = token_logp(models["policy"].policy, prompts, tokens, lengths)[0]
    for model in models.values():
        fills = None if model.role is None else model.role.fills
        if fills == "ref_logp" and "ref_logp" in wanted:
            found["ref_logp"] = token_logp(model.policy, prompts, tokens, lengths, grad=False)[0]
        if fills == "model_reward" and "reward" in wanted:
            assert model.head is not None
            values = token_values(model.policy, model.head, prompts, tokens, lengths, after=True)
            found["reward"] = at_last(values, lengths)
    return found


def _head(models: Mapping[str, Model]) -> Model | None:
    return next((model for model in models.values() if model.head is not None), None)


def resume_models(
    models: Mapping[str, Model], folder: Path, begin: Callable[[Mapping[str, Model]], None]
) -> tuple[int, tuple[str, ...]]:
    """Take up the folder's newest checkpoint, else let ``begin`` set the models up; the step, and notes."""
    found = checkpoint.latest(folder)
    if found is None:
        begin(models)
        return 0, ()
    restore_models(models, found.path, found.tensors(), found.state["optimizers"])
    checkpoint.set_aside_after(folder, found.step)
    return found.step, (*found.notes, f"resumed after step {found.step}")


def save_models(models: Mapping[str, Model], folder: Path, step: int) -> int:
    """Write a checkpoint of every trained model; returns ``step``."""
    tensors, optimisers = optimisers_saved(models)
    checkpoint.save(
        folder, step, write_model=write_models(models), tensors=tensors, state={"optimizers": optimisers}, keep=1
    )
    return step
