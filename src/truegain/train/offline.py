"""Supervised fine-tuning: the offline loop, written out. Paced by steps, it resumes to the same numbers."""

from __future__ import annotations

import json
import math
import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from truegain.core import arithmetic, forms
from truegain.core.arithmetic import OptimiserStep
from truegain.core.batch import Batch
from truegain.core.errors import DataError, RunError, SettingError
from truegain.policy.policy import Policy
from truegain.train.folder import fsync
from truegain.train.learner import update
from truegain.train.models import Model
from truegain.train.muon import Muon

SETTINGS = ("lr", "betas", "weight_decay", "momentum")
Schedule = Literal["constant", "cosine", "wsd"]


@dataclass(frozen=True)
class Example:
    """A prompt, the completion to learn (its end mark included), and which completion tokens count in the loss."""

    prompt: tuple[int, ...]
    completion: tuple[int, ...]
    mask: tuple[bool, ...]

    @property
    def size(self) -> int:
        """Tokens of prompt and completion."""
        return len(self.prompt) + len(self.completion)


@dataclass
class Fit:
    """Where a fit stands. ``index`` is the next example; ``seconds`` and ``tokens`` (padding left out) are spent."""

    optimizer: torch.optim.Optimizer
    step: int = 0
    index: int = 0
    seconds: float = 0.0
    tokens: int = 0
    loss: float = math.nan
    lr: float = 0.0
    grad_norm: float = math.nan
    facts: dict[str, Any] = field(default_factory=dict)


def begin(policy: Policy, *, optimizer: Literal["adamw", "muon"] = "adamw", weight_decay: float = 0.1) -> Fit:
    """A fresh fit; matrices decay by ``weight_decay``, gains and biases do not.

    ``adamw`` has betas 0.9 and 0.95. ``muon`` takes the matrices inside the blocks; embeddings, head and gains stay
    with Adam. At the same learning rate both take steps of about the same size; muon stands, and wants, a higher one.
    """
    named = [(name, p) for name, p in policy.model.named_parameters() if p.requires_grad]
    outer = {id(p) for e in _embeddings(policy.model) for p in e.parameters()}
    if optimizer == "muon":
        inner = [p for _, p in named if p.ndim == 2 and id(p) not in outer]
        rest = [p for _, p in named if not (p.ndim == 2 and id(p) not in outer)]
        return Fit(Muon(inner, rest, weight_decay=weight_decay))
    if optimizer != "adamw":
        raise SettingError(f"optimizer {optimizer!r} is unknown: use adamw or muon")
    groups = [
        {"params": [p for _, p in named if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for _, p in named if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return Fit(torch.optim.AdamW([g for g in groups if g["params"]], lr=0.0, betas=(0.9, 0.95), fused=True))


def _embeddings(model: Any) -> list[torch.nn.Module]:
    """The input embedding and the head; neither for a model without, as the table policy."""
    try:
        found = (model.get_input_embeddings(), model.get_output_embeddings())
    except (NotImplementedError, AttributeError):
        return []
    return [module for module in found if isinstance(module, torch.nn.Module)]


def sft(
    form: forms.Fit,
    policy: Policy,
    examples: Callable[[int], Example],
    fit: Fit,
    *,
    steps: int | None = None,
    seconds: float | None = None,
    batch_tokens: int = 8192,
    rows: int | None = None,
    lr: float = 3e-3,
    warmup: int = 100,
    schedule: Schedule = "cosine",
    decay: float = 0.2,
) -> Iterator[Fit]:
    """Train on ``examples(0), examples(1), ...`` and yield the fit after every optimiser step, until it is done.

    Ends after ``steps`` steps or ``seconds`` of stepping (what the caller does between steps does not count); one of
    the two is given and paces the schedule too. A step takes ``rows`` examples, or if that is None as many as hold
    ``batch_tokens`` tokens; the loss is the form's terms over them, in micro-batches of ``loop.micro_tokens``, the
    gradient clipped to ``loop.grad_clip``. The learning rate rises over ``warmup`` steps to ``lr``, then stays
    (``constant``), falls as a cosine, or stays and falls linearly to 0 over the last ``decay`` of the fit (``wsd``).
    Raises RunError before the weights are touched if the loss or its gradient is not finite.
    """
    if (steps is None) == (seconds is None):
        raise SettingError("sft: give either steps or seconds, to end the fit and to pace its learning rate")
    done = (lambda: fit.step / steps) if steps is not None else (lambda: fit.seconds / seconds)  # pyright: ignore
    policy.model.train()
    while done() < 1.0:
        began = time.perf_counter()
        if rows is None:
            batch, index = _draw(examples, fit.index, batch_tokens)
        else:
            batch, index = [examples(fit.index + i) for i in range(rows)], fit.index + rows
        fit.lr = lr * min(1.0, (fit.step + 1) / max(1, warmup)) * _level(schedule, done(), decay)
        for group in fit.optimizer.param_groups:
            group["lr"] = fit.lr
        try:
            updated = update(
                form,
                {"policy": Model("policy", policy, optimiser=fit.optimizer)},
                as_step(form, batch, policy.device),
                [e.prompt for e in batch],
                {},
            )
        except RunError as error:
            raise RunError(f"sft step {fit.step}, examples {fit.index} to {index - 1}: {error}") from error
        fit.step, fit.index, fit.loss, fit.grad_norm = (
            fit.step + 1,
            index,
            updated.loss["policy"],
            updated.grad_norm.get("policy", 0.0),
        )
        fit.tokens += sum(example.size for example in batch)
        fit.seconds += time.perf_counter() - began
        yield fit
    policy.model.eval()


def progress_line(fit: Fit, *, steps: int | None = None, seconds: float | None = None) -> str:
    """One line: step, loss, rate in tokens per second and, if the end is given, the time left."""
    rate = fit.tokens / max(fit.seconds, 1e-9)
    left = seconds - fit.seconds if seconds is not None else None
    if steps is not None and fit.step:
        left = (steps - fit.step) * fit.seconds / fit.step
    tail = "" if left is None else f"  {max(0, left) // 60:.0f} min {max(0, left) % 60:02.0f} s left"
    return f"step {fit.step}  loss {fit.loss:.4f}  lr {fit.lr:.1e}  grad {fit.grad_norm:.2f}  {rate:.0f} tok/s{tail}"


def save_fit(folder: str | Path, policy: Policy, fit: Fit) -> None:
    """Write model, optimiser state and position to ``folder``, all of it or nothing (written beside, then renamed)."""
    folder = Path(folder)
    beside = folder.with_name(f".{folder.name}.{os.getpid()}")
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir(parents=True)
    policy.save(beside)
    state = fit.optimizer.state_dict()
    tensors = {
        f"{number}.{name}": value.contiguous()
        for number, values in state["state"].items()
        for name, value in values.items()
    }
    save_file(tensors, beside / "optimizer.safetensors")
    place = {name: getattr(fit, name) for name in ("step", "index", "seconds", "tokens", "facts")}
    place["groups"] = [{name: group[name] for name in SETTINGS if name in group} for group in state["param_groups"]]
    place["optimizer"] = "muon" if isinstance(fit.optimizer, Muon) else "adamw"
    (beside / "fit_state.json").write_text(json.dumps(place))
    for file in beside.rglob("*"):
        fsync(file)
    old = _set_aside(folder)
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.rename(old)
    beside.rename(folder)
    fsync(folder.parent)
    shutil.rmtree(old, ignore_errors=True)


def saved_fit(folder: str | Path) -> bool:
    """Whether `save_fit` left something there; what it had set aside when it was killed is put back."""
    folder = Path(folder)
    if not folder.exists() and _set_aside(folder).is_dir():
        _set_aside(folder).rename(folder)
    return folder.is_dir()


def _set_aside(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.old")


def load_fit(folder: str | Path) -> tuple[Policy, Fit]:
    """Read what `save_fit` wrote. Raises DataError if it is not readable."""
    folder = Path(folder)
    saved_fit(folder)
    policy = Policy.load(folder)
    try:
        tensors = load_file(folder / "optimizer.safetensors")
        place = json.loads((folder / "fit_state.json").read_text())
        fit = begin(policy, optimizer=place.pop("optimizer"))
        values: dict[int, dict[str, Tensor]] = {}
        for name, value in tensors.items():
            number, _, kind = name.partition(".")
            values.setdefault(int(number), {})[kind] = value
        groups = fit.optimizer.state_dict()["param_groups"]
        for group, settings in zip(groups, place.pop("groups"), strict=True):
            group.update(settings, betas=tuple(settings["betas"]))
        fit.optimizer.load_state_dict({"state": values, "param_groups": groups})
    except (OSError, SafetensorError, ValueError, KeyError, AttributeError, SettingError) as error:
        raise DataError(f"{folder} is not a checkpoint of a fit ({error}): resume from another one") from error
    return policy, replace(fit, **place)


def _draw(examples: Callable[[int], Example], index: int, batch_tokens: int) -> tuple[list[Example], int]:
    batch: list[Example] = []
    held = 0
    while held < batch_tokens:
        example = examples(index)
        batch.append(example)
        held, index = held + example.size, index + 1
    return batch, index


def as_step(form: forms.Fit, batch: Sequence[Example], device: torch.device | str = "cpu") -> OptimiserStep:
    """Examples as the rows of one optimiser step, each a group of its own."""
    width = max(len(example.completion) for example in batch)
    tokens = torch.zeros(len(batch), width, dtype=torch.long)
    mask = torch.zeros(len(batch), width, dtype=torch.bool)
    turn = torch.full((len(batch), width), -1)
    for i, example in enumerate(batch):
        size = len(example.completion)
        tokens[i, :size], mask[i, :size] = torch.tensor(example.completion), torch.tensor(example.mask)
        turn[i, :size] = 0
    found = {"tokens": tokens, "mask": mask, "turn": turn, "group": torch.arange(len(batch))}
    columns = Batch(**{name: value.to(device) for name, value in found.items()})
    advantages, _ = arithmetic.credit_stage(form, columns, {})
    return arithmetic.plan_stage(form, columns, advantages, {})[0][0]


def _level(schedule: Schedule, done: float, decay: float) -> float:
    """Fraction of the peak learning rate at ``done`` in [0, 1)."""
    if schedule == "constant":
        return 1.0
    if schedule == "cosine":
        return 0.5 * (1.0 + math.cos(math.pi * done))
    if schedule == "wsd":
        return min(1.0, (1.0 - done) / decay)
    raise SettingError(f"sft: schedule {schedule!r} is unknown: use constant, cosine or wsd")
