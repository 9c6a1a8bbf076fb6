"""`Fit` in a chain: learn the last data set, else the task's demonstrations."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, cast

from truegain.core.component import call
from truegain.core.errors import WiringError
from truegain.core.forms import Fit, members
from truegain.policy.policy import Policy
from truegain.policy.reward_model import HEAD
from truegain.train import checkpoint, offline
from truegain.train.dataset import examples_of, pair_of, read_dataset
from truegain.train.drawing import problems
from truegain.train.folder import RunFolder
from truegain.train.heads import check_heads, fit_heads, named
from truegain.train.launch import StopSignal
from truegain.train.ledger import Ledger, attended, model_cost, spend
from truegain.train.memory import memory_for
from truegain.train.models import Model, left_by
from truegain.train.offline import Example
from truegain.train.pairs import check_pairs, fit_pairs, pair_ids
from truegain.train.reward_models import draw_heads
from truegain.train.stages.stage import Event, Stage, finish, put
from truegain.train.tiny import demonstration_example

SCHEDULES: dict[str, offline.Schedule] = {"none": "constant", "cosine": "cosine", "linear": "wsd"}


def run(stage: Stage, stop: StopSignal) -> Iterator[Event]:
    """Fit to the last step, or until ``stop`` has a reason; goes on where it was."""
    form = cast(Fit, stage.form)
    yield from (_models if form.pair or _heads_of(form) else _terms)(stage, stop)


def _heads_of(form: Fit) -> bool:
    return any(term.role != "policy" for term in form.terms)


def _models(stage: Stage, stop: StopSignal) -> Iterator[Event]:
    """The loops on pairs and on labelled rows. A reward model that they train is what is left: it is no policy."""
    form = cast(Fit, stage.form)
    assert stage.given.dataset is not None
    kept: dict[str, Model] = {}
    with RunFolder(stage.place) as folder, memory_for("fitting", "try --set loop.prompts=8"):
        policy = stage.policy().trainable_copy()
        wanted = ("chosen", "rejected") if form.pair else ("completion", *sorted(named(form)))
        rows = read_dataset(stage.given.dataset, "prompt", *wanted)
        last = checkpoint.latest(stage.place)
        at = last.step if last else 0
        folder.rewind(at)
        yield {"kind": "begin", "total": form.loop.steps, "unit": "steps", "done": at}
        seed = stage.drawn_with
        how: dict[str, Any] = {"seed": seed, "stop": stop.reason, "begin": draw_heads(seed), "hold": kept.update}
        if form.pair:
            lines = fit_pairs(form, policy, [pair_ids(policy, pair_of(row)) for row in rows], stage.place, **how)
        else:
            lines = fit_heads(form, policy, rows, stage.place, **how)
        for line in lines:
            if line["kind"] == "step":
                at = line["step"]
                folder.log(line)
            yield line
        if at < form.loop.steps:
            return
        found = [kept[name] for name in left_by(form)]
        put(stage.place / "model", lambda where: _written(where, policy, found))
    roles = {model.name: "model" for model in found}
    finish(stage.place, form="Fit", policy=None if roles else "model", roles=roles, steps=at)


def _written(folder: Path, policy: Policy, left: Sequence[Model]) -> None:
    for model in left:
        model.policy.save(folder)
        if model.head is not None:
            model.head.save(folder / HEAD)
    if not left:
        policy.save(folder)


def _terms(stage: Stage, stop: StopSignal) -> Iterator[Event]:
    """The loop on examples; it goes on from ``checkpoint/``."""
    form = cast(Fit, stage.form)
    place = stage.place / "checkpoint"
    with RunFolder(stage.place) as folder, memory_for("fitting", "try --set loop.prompts=8"):
        policy, begun = _taken_up(place, stage)
        folder.rewind(begun.step)
        examples = _examples(policy, stage)
        yield {"kind": "begin", "total": form.loop.steps, "unit": "steps", "done": begun.step}
        fit = begun
        cost, ledger, before = model_cost(policy.model), Ledger(**fit.facts.get("ledger", {})), fit.index
        for fit in _steps(form, policy, examples, begun):
            for size in (examples(i).size for i in range(before, fit.index)):
                ledger += spend(cost, "trained", size, attended(0, size))
            before, fit.facts["ledger"] = fit.index, ledger.to_json()
            line = _line(fit)
            folder.log(line)
            yield line
            if form.loop.save_every and fit.step % form.loop.save_every == 0:
                offline.save_fit(place, policy, fit)
            if stop.reason():
                break
        policy.model.eval()
        offline.save_fit(place, policy, fit)
        if fit.step < form.loop.steps:
            return
        put(stage.place / "model", policy.save)
    finish(stage.place, form="Fit", policy="model", steps=fit.step)


def _steps(form: Fit, policy: Policy, examples: Callable[[int], Example], fit: offline.Fit) -> Iterator[offline.Fit]:
    """The offline loop at the form's own settings; nothing where its last step is taken."""
    loop = form.loop
    yield from offline.sft(
        form, policy, examples, fit, steps=loop.steps, rows=loop.prompts, lr=loop.lr, warmup=loop.warmup,
        schedule=SCHEDULES[loop.decay], decay=1.0,
    ) if loop.steps else ()  # fmt: skip


def _line(fit: offline.Fit) -> Event:
    """What the log says of a step, in TRL's names."""
    named = {"loss": fit.loss, "grad_norm": fit.grad_norm, "learning_rate": fit.lr, "num_tokens": fit.tokens}
    return {"kind": "step", "step": fit.step, **named, "seconds": fit.seconds, "ledger": fit.facts["ledger"]}


def check(form: Fit, dataset: bool, demonstrations: bool) -> None:
    """Refuse what this loop cannot learn, before anything starts. Raises WiringError."""
    if form.pair:
        check_pairs(form)
        if members(form.edit):
            raise WiringError("a Fit on pairs edits no text: leave its field 'edit' empty")
        if not dataset:
            raise WiringError("a Fit on pairs needs some: a form before it that writes them, or --data FILE with them")
        return
    if _heads_of(form):
        check_heads(form)
        if not dataset:
            raise WiringError(
                "a Fit of reward models needs a form before it that labels rows, or --data FILE with their columns"
            )
        return
    if not dataset and not demonstrations:
        raise WiringError(
            "a Fit needs examples: --data FILE with prompt and completion, a form before it that writes a data set, or "
            "a task with reference completions (an embedded task, or a data file with a column 'completion')"
        )


def _taken_up(place: Path, stage: Stage) -> tuple[Policy, offline.Fit]:
    if not offline.saved_fit(place):
        policy = stage.policy()
        return policy, offline.begin(policy, weight_decay=cast(Fit, stage.form).loop.weight_decay)
    policy, fit = offline.load_fit(place)
    policy.model.to(stage.device)
    # Loading a state puts the moments where their weights are.
    fit.optimizer.load_state_dict(fit.optimizer.state_dict())
    return policy, fit


def _examples(policy: Policy, stage: Stage) -> Callable[[int], Example]:
    """The index-th example, a pure function of (seed, index)."""
    edited = _editing(cast(Fit, stage.form), stage.drawn_with)
    if stage.given.dataset is not None:
        rows = read_dataset(stage.given.dataset, "prompt", "completion")
        return examples_of(policy, rows, stage.drawn_with, edited)
    task: Any = stage.the_task()
    room = getattr(policy.model.config, "max_position_embeddings", None)

    def example(index: int) -> Example:
        problem = problems(task, "train", index, 1, stage.drawn_with)[0]
        text = task.demonstration(problem, random.Random(f"{stage.drawn_with}-{index}"))
        return demonstration_example(policy, problem, edited(text, index) if edited else text, room)

    return example


def _editing(form: Fit, seed: int) -> Callable[[str, int], str] | None:
    """What the form makes of the text of the index-th example; None where it leaves texts alone."""
    if not members(form.edit):
        return None

    def edited(text: str, index: int) -> str:
        rng = random.Random(f"edit {seed} {index}")
        for member in members(form.edit):
            text, _ = call(member, {"text": text, "rng": rng}, {})
        return text

    return edited
