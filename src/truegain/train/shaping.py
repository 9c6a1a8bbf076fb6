"""From rollouts to the batch that credit sees: facts, segments, what the roles and probes say, reward, selection."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from truegain.core import arithmetic, segments
from truegain.core.arithmetic import Logs, merge
from truegain.core.batch import Batch
from truegain.core.columns import COLUMNS, COSTLY
from truegain.core.component import call, spec_of
from truegain.core.errors import WiringError
from truegain.core.forms import Train, members
from truegain.core.types import Rollout
from truegain.policy.heads import at_last
from truegain.rollout.batch import to_columns
from truegain.rollout.segment import own_spans, segmented
from truegain.tasks import NAMES, make
from truegain.train.drawing import Draw
from truegain.train.learner import logp_pass, token_counts, value_pass
from truegain.train.ledger import Ledger
from truegain.train.models import Model
from truegain.train.setup import Setup, State, facts_of


@dataclass(frozen=True)
class Shaped:
    """The batch with its rollouts, the rollouts that a probe refused (with their reason), logs and the probes' cost."""

    batch: Batch
    rollouts: list[Rollout]
    refused: list[Rollout]
    logs: Logs
    spent: Ledger


def shape(setup: Setup, models: Mapping[str, Model], state: State, rollouts: Sequence[Rollout]) -> Shaped:
    """The batch with every column that the form names up to the reward; rows that a probe refused are out of it."""
    form, device = setup.form, setup.policy.device
    batch = before_probes(setup, models, rollouts)
    spent, facts = Ledger(), facts_of(form, state.step)
    logs: Logs = {}
    kept, refused = list(rollouts), list[Rollout]()
    for member in members(form.probe):
        spec = spec_of(member)
        draw = Draw(setup, models, state, "probed", spec.full_name)
        found, more = call(member, {**batch, "roles": draw.roles, "draw": draw, "rollouts": tuple(kept)}, facts)  # pyright: ignore[reportArgumentType]
        if set(found) != set(spec.fills):
            raise WiringError(f"{spec.full_name} gave {sorted(found)}; it says that it fills {list(spec.fills)}")
        batch = batch.add(**{name: value.to(device) for name, value in found.items()})
        logs |= {name: (float(value), 1.0) for name, value in more.items()}
        spent += draw.ledger
        for row, reason in sorted(draw.refused.items()):
            refused.append(replace(kept[row], facts={**kept[row].facts, "abstained": f"{spec.full_name}: {reason}"}))
        if draw.refused:
            left = [i for i in range(len(kept)) if i not in draw.refused]
            kept = [kept[i] for i in left]
            batch = batch.take(torch.tensor(left, dtype=torch.long, device=device))
            batch = Batch(**{**batch, "group": segments.dense(batch["group"])})
        if not kept:
            return Shaped(batch, kept, refused, logs, spent)
    batch, more = arithmetic.reward_stage(form, batch, facts)
    return Shaped(batch, kept, refused, merge(logs, more, _reward_logs(batch)), spent)


def before_probes(setup: Setup, models: Mapping[str, Model], rollouts: Sequence[Rollout]) -> Batch:
    """Facts, segments, and what the models say of the rollouts."""
    device = setup.policy.device
    batch = Batch(**{name: value.to(device) for name, value in to_columns(rollouts).items()})
    batch = add_segments(setup, batch, rollouts)
    return add_models(setup.form, models, batch, [r.trained_prompt for r in rollouts])


def add_segments(setup: Setup, batch: Batch, rollouts: Sequence[Rollout]) -> Batch:
    """The form's segments as id columns, -1 on tokens that the policy did not choose."""
    if not setup.form.segment:
        return batch
    spans = own_spans(rollouts, setup.policy.decode)
    found = {name: segmented(m, rollouts, spans, batch["mask"]) for name, m in setup.form.segment.items()}
    columns = {**batch, **found} if "turn" in found else None
    return Batch(**columns) if columns is not None else batch.add(**found)


def add_models(form: Train, models: Mapping[str, Model], batch: Batch, prompts: Sequence[tuple[int, ...]]) -> Batch:
    """What the roles say of the rollouts, and the policy's own log-probs where they are named before the update."""
    loop, named = form.loop, arithmetic.named_columns(form)
    rewards: list[Tensor] = []
    critics: list[Tensor] = []
    for model in models.values():
        fills = None if model.role is None else model.role.fills
        if fills == "ref_logp":
            batch = batch.add(ref_logp=logp_pass(model.policy, prompts, batch, loop))
        elif fills in ("rm_logp", "rm_ref_logp"):
            # A reward model was trained at temperature 1, whatever the loop samples at.
            batch = batch.add(**{fills: logp_pass(model.policy, prompts, batch, loop, temperature=1.0)})
        elif fills == "value" and named & {"old_value", "old_values"}:
            critics.append(value_pass(model, prompts, batch, loop))
        elif fills == "model_reward":
            rewards.append(at_last(value_pass(model, prompts, batch, loop, after=True), token_counts(batch)))
        elif fills == "step_reward":
            scores = value_pass(model, prompts, batch, loop, after=True)
            batch = batch.add(step_reward=at_step_ends(scores, batch["step"]))
    if rewards:
        batch = batch.add(model_reward=torch.stack(rewards, dim=1))
    if len(critics) == 1 and "old_value" in named:
        batch = batch.add(old_value=critics[0])
    if len(critics) > 1 or (critics and "old_values" in named):
        batch = batch.add(old_values=torch.stack(critics, dim=2))
    if arithmetic.needs_old_pass(form):
        batch = batch.add(old_logp=logp_pass(models["policy"].policy, prompts, batch, loop))
    return batch


def at_step_ends(scores: Tensor, step: Tensor) -> Tensor:
    """Per-token numbers [B,T] at the last token of each step: [B,S], NaN past a row's last step."""
    rows, width = step.shape
    count = segments.count(step)
    out = scores.new_full((rows, count), float("nan"))
    places = torch.arange(width, device=step.device).expand(rows, width)
    inside = step >= 0
    last = torch.full((rows, count), -1, dtype=torch.long, device=step.device)
    index = torch.where(inside, step, 0)
    last.scatter_reduce_(1, index, torch.where(inside, places, -1), reduce="amax")
    found = last >= 0
    out[found] = scores.gather(1, last.clamp(min=0))[found] if width else out[found]
    return out


def renewed(batch: Batch, logp: Tensor, part: Tensor, number: int) -> Batch:
    """The batch after an optimiser step of a renewing plan: ``logp`` [B,T] is the ``old_logp`` of the next one.

    ``shift[:, number]`` becomes the mean of ``logp - old_logp`` over each row's tokens of ``part`` [B,T], which the
    step trained; it stays NaN for rows without any.
    """
    count = part.sum(dim=1)
    moved = (logp - batch["old_logp"]).masked_fill(~part, 0.0).sum(dim=1) / count.clamp(min=1)
    shift = batch["shift"].clone()
    shift[:, number] = torch.where(count > 0, moved, torch.nan)
    return Batch(**{**batch, "old_logp": logp, "shift": shift})


def not_finite(batch: Batch) -> list[int]:
    """Rows whose reward is NaN or infinite."""
    return (~batch["reward"].isfinite()).nonzero().flatten().tolist()


def _reward_logs(batch: Batch) -> Logs:
    """TRL's names: mean reward, mean deviation within groups, share of groups whose rewards are all equal."""
    # In double precision the mean of equal float32 numbers is exact, so that equal rewards deviate by exactly 0.
    reward, group = batch["reward"].double(), batch["group"]
    size = segments.total(torch.ones_like(reward), group)
    centred = reward - segments.spread(segments.mean(reward, group), group)
    spread = (segments.total(centred**2, group) / (size - 1).clamp(min=1)).sqrt()
    groups = float(size.numel())
    return {
        "reward": (float(reward.sum()), float(reward.numel())),
        "reward_std": (float(spread.sum()), groups),
        "frac_reward_zero_std": (float((spread == 0).sum()), groups),
    }


def available(form: Train) -> frozenset[str]:
    """Columns that exist by the time of the reward whatever the task: the engine's, the form's own parts'."""
    found = {"tokens", "mask", "group", "key", "turn", "engine_logp", "truncated", "old_logp", "logp", "entropy"}
    found |= {"reward", "reward_parts", "advantage", "target", *form.segment, "keep", "shift", *COSTLY}
    for role in form.roles.values():
        found |= {role.fills, "old_value", "old_values"} if role.fills == "value" else {role.fills}
    for stage in (form.score, form.probe):
        for member in members(stage):
            found |= set(spec_of(member).fills)
    return frozenset(found)


def check_columns(form: Train, supplied: frozenset[str], who: str) -> None:
    """Refuse a component whose column neither the form nor ``who`` supplies. Raises WiringError naming all three."""
    there = available(form) | supplied
    stages = [form.probe, form.reward, form.select, form.plan, form.fold]
    stages += [stage for t in form.terms for stage in (t.credit, t.weight, t.surrogate)]
    for stage in stages:
        for member in members(stage):
            for name in spec_of(member).inputs:
                if name in COLUMNS and name not in there:
                    tasks = suppliers(name)
                    tasks = f"; tasks that supply it: {', '.join(tasks)}" if tasks else ""
                    raise WiringError(
                        f"{spec_of(member).full_name} needs column {name!r}, which {who} does not supply; it comes "
                        f"from {COLUMNS[name].provider}{tasks}"
                    )


def suppliers(column: str) -> list[str]:
    """Names of the embedded tasks that supply a column."""
    return [name for name in NAMES if column in getattr(make(name), "supplies", ())]
