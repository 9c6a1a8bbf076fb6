"""`truegain fit reward-model`: members of an ensemble, fitted one after another, each judged on held-out pairs."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from truegain.core.errors import DataError, RunError, SettingError
from truegain.core.forms import Fit
from truegain.core.settings import loop_with, settings
from truegain.core.types import Pair, Split
from truegain.methods.evaluation import Estimate, proportion_mean
from truegain.policy.heads import MEMBER, ScalarHead
from truegain.policy.policy import Policy
from truegain.policy.reward_model import HEAD, RewardModels
from truegain.train.folder import plain
from truegain.train.models import Model
from truegain.train.pairs import PairIds, fit_pairs, pair_ids

RECORD = "reward_model.json"


class PairSource(Protocol):
    """Preference pairs by split and number: a `PairFile`, or a task that compares completions itself."""

    @property
    def name(self) -> str:
        """What the pairs are of."""
        ...

    def size(self, split: Split) -> int | None:
        """How many pairs the split has; None when unlimited."""
        ...

    def pair(self, split: Split, index: int) -> Pair:
        """The index-th pair of a split."""
        ...


@dataclass(frozen=True)
class MemberPlan:
    """What makes an ensemble: member m starts from ``models[m % len(models)]`` and orders the pairs by ``seed + m``.

    One model gives members that differ by head and data order; several, by their pre-training. ``pairs`` bounds how
    many train pairs are used, ``held_out`` how many dev pairs judge. ``steps`` None means one pass over the pairs.
    ``standardise`` puts each member's rewards on one scale, mean 0 and deviation 1 over the held-out completions.
    """

    form: Fit
    models: tuple[str, ...]
    out: Path
    members: int = 1
    seed: int = 0
    pairs: int | None = None
    held_out: int = 500
    steps: int | None = None
    standardise: bool = False
    dtype: str = "float32"
    device: str = "cpu"


def fit_members(
    plan: MemberPlan, source: PairSource, stop: Callable[[], str | None] = lambda: None
) -> Iterator[dict[str, Any]]:
    """Fit every member that is not there yet and yield its lines, ``member`` among them.

    A line of kind ``member`` tells of a finished one with its accuracy; the last, of kind ``ensemble``, of the mean of
    all. Ends early, to go on later, when ``stop`` has a reason. Raises SettingError for a folder of other settings.
    """
    train = pairs_of(source, "train", plan.pairs)
    held_out = pairs_of(source, "dev", plan.held_out)
    steps = plan.steps or -(-len(train) // plan.form.loop.prompts)
    form = loop_with(plan.form, steps=steps)
    for number in range(plan.members):
        record = _record(plan, form, source.name, len(train), number)
        folder = plan.out / MEMBER.format(number)
        if not _finished(folder, record):
            yield from _fit_one(plan, form, train, number, stop)
            if stop() is not None:
                return
            if plan.standardise:
                standardise(_unfinished(plan, number), held_out, dtype=plan.dtype, device=plan.device)
            judged = accuracies(_loaded(plan, _unfinished(plan, number)), held_out)[0]
            _finish(_unfinished(plan, number), folder, record | {"accuracy": _told(judged)})
        told = json.loads((folder / RECORD).read_text())["accuracy"]
        yield {"kind": "member", "member": number, "of": plan.members, "accuracy": told, "folder": str(folder)}
    mean = accuracies(_loaded(plan, plan.out), held_out)[-1]
    yield {"kind": "ensemble", "members": plan.members, "accuracy": _told(mean), "folder": str(plan.out)}


def pairs_of(source: PairSource, split: Split, most: int | None) -> list[Pair]:
    """The first pairs of a split. Raises DataError if there are none, SettingError if nothing bounds them."""
    size = source.size(split)
    if size is None and most is None:
        raise SettingError(f"{source.name} has no last pair; say how many to learn from")
    count = min(n for n in (size, most) if n is not None)
    if count < 1:
        raise DataError(f"{source.name}: no pair falls into the {split} split; it takes about 20 rows or more")
    return [source.pair(split, i) for i in range(count)]


def accuracies(models: RewardModels, pairs: Sequence[Pair]) -> list[Estimate]:
    """Share of pairs that each member orders as labelled, ties counting half, with 95 % intervals; last, their mean."""
    chosen, rejected = _scores(models, pairs)
    ahead = torch.cat([chosen - rejected, (chosen - rejected).mean(dim=1, keepdim=True)], dim=1)
    right = (ahead > 0).double() + 0.5 * (ahead == 0)
    return [proportion_mean(np.asarray(column)[None]) for column in right.T]


def standardise(folder: Path, pairs: Sequence[Pair], *, dtype: str = "float32", device: str = "cpu") -> None:
    """Shift and scale the head in ``folder`` so that its rewards of the pairs' completions have mean 0, deviation 1.

    What it prefers stays. A head that tells no two completions apart is only shifted.
    """
    scores = torch.cat(_scores(RewardModels.load(folder, dtype=dtype, device=device), pairs))[:, 0].double()
    deviation = float(scores.std(correction=0)) or 1.0
    head = ScalarHead.load(folder / HEAD)
    with torch.no_grad():
        head.linear.weight /= deviation
        head.linear.bias.sub_(float(scores.mean())).div_(deviation)
    head.save(folder / HEAD)


def _scores(models: RewardModels, pairs: Sequence[Pair]) -> tuple[torch.Tensor, torch.Tensor]:
    """Rewards [N, M] of the chosen and of the rejected completions."""
    ids = [pair_ids(models.members[0][0], pair) for pair in pairs]
    prompts = [row.prompt for row in ids]
    return models.score(prompts, [r.chosen for r in ids]), models.score(prompts, [r.rejected for r in ids])


def _fit_one(
    plan: MemberPlan, form: Fit, train: Sequence[Pair], number: int, stop: Callable[[], str | None]
) -> Iterator[dict[str, Any]]:
    policy = Policy.load(plan.models[number % len(plan.models)], dtype=plan.dtype, device=plan.device)
    policy = policy.trainable_copy()
    ids: list[PairIds] = [pair_ids(policy, pair) for pair in train]
    place, seed = _work(plan, number), plan.seed + number
    kept: dict[str, Model] = {}
    how: dict[str, Any] = {"seed": seed, "stop": stop, "begin": draw_heads(seed), "hold": kept.update}
    for line in fit_pairs(form, policy, ids, place, **how):
        yield {**line, "member": number, "of": plan.members, "steps": form.loop.steps}
    if stop() is None:
        _write(_unfinished(plan, number), kept)


def draw_heads(seed: int) -> Callable[[Mapping[str, Model]], None]:
    """What draws the weights of every head that is trained, by `draw_head`."""

    def begin(models: Mapping[str, Model]) -> None:
        for model in models.values():
            if model.head is not None and model.optimiser is not None:
                draw_head(model.head, seed)

    return begin


def draw_head(head: ScalarHead, seed: int) -> None:
    """Draw a head's weights from a normal of deviation ``1 / sqrt(d + 1)``, as InstructGPT's authors do."""
    rng = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        weight = head.linear.weight
        weight.copy_(torch.randn(weight.shape, generator=rng) / (weight.shape[1] + 1) ** 0.5)


def _loaded(plan: MemberPlan, place: Path) -> RewardModels:
    return RewardModels.load(place, dtype=plan.dtype, device=plan.device)


def _work(plan: MemberPlan, number: int) -> Path:
    return plan.out / "unfinished" / MEMBER.format(number)


def _unfinished(plan: MemberPlan, number: int) -> Path:
    return _work(plan, number) / "model"


def _write(folder: Path, models: Mapping[str, Model]) -> None:
    (model,) = [model for model in models.values() if model.head is not None]
    assert model.head is not None
    shutil.rmtree(folder, ignore_errors=True)
    model.policy.save(folder)
    model.head.save(folder / HEAD)


def _finish(made: Path, folder: Path, record: Mapping[str, Any]) -> None:
    """Move a finished member to its place, its record first written into it, and drop its checkpoints."""
    (made / RECORD).write_text(json.dumps(plain(record, "record"), indent=1) + "\n")
    try:
        os.replace(made, folder)
    except OSError as error:
        raise RunError(f"cannot move {made} to {folder} ({error.strerror or error}); move it by hand") from error
    shutil.rmtree(made.parent, ignore_errors=True)
    if made.parent.parent.is_dir() and not any(made.parent.parent.iterdir()):
        made.parent.parent.rmdir()


def _record(plan: MemberPlan, form: Fit, data: str, pairs: int, number: int) -> dict[str, Any]:
    return {
        "data": data,
        "pairs": pairs,
        "model": plan.models[number % len(plan.models)],
        "seed": plan.seed + number,
        "standardise": plan.standardise,
        "settings": settings(form),
    }


def _finished(folder: Path, record: Mapping[str, Any]) -> bool:
    """Whether the member is there. Raises SettingError if it was made with other settings, naming the first."""
    if not (folder / RECORD).is_file():
        return False
    there = json.loads((folder / RECORD).read_text())
    wanted = json.loads(json.dumps(plain(record, "record")))
    for name, value in wanted.items():
        if there.get(name) != value:
            raise SettingError(f"{folder} was fitted with another {name}; give another --out, or the same settings")
    return True


def _told(found: Estimate) -> dict[str, float]:
    return {"value": found.value, "low": found.low, "high": found.high, "pairs": found.clusters}
