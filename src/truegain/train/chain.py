"""A system's forms, run in order: each is given the folder of the one before.

Every form has a folder: ``out/1-decode``, ``out/2-fit``, ``out/3-train``. One that writes data leaves
``dataset.jsonl``, one that trains ``model/``, one that studies ``record.json``, and all of them, last, ``stage.json``:
a form whose folder holds it is not run again, any other goes on where it was.
"""

from __future__ import annotations

import importlib.metadata
import platform
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from truegain.core.errors import DataError, SettingError, TruegainError, WiringError
from truegain.core.forms import Decode, Fit, Form, Measure, Study, Train, Watch
from truegain.core.settings import settings
from truegain.core.types import Task
from truegain.tasks.mixture import parse
from truegain.train.folder import RunFolder
from truegain.train.launch import StopSignal
from truegain.train.models import left_by
from truegain.train.online import check as check_train
from truegain.train.stages import decode, fit, records, study, train
from truegain.train.stages.stage import Event, Executor, Given, Stage, after, finished

EXECUTORS: Mapping[type, Executor] = {
    Train: train.run,
    Fit: fit.run,
    Decode: decode.run,
    Watch: records.watch,
    Measure: records.measure,
    Study: study.run,
}
FREE = frozenset({"command", "argv", "versions", "threads", "device"})


def _no_options() -> Mapping[str, Any]:
    return {}


@dataclass(frozen=True)
class Chain:
    """What `execute` runs: the forms of a recipe, the model and the task to begin with, and where.

    ``task`` may be empty for forms that read none, ``seed`` None for the recipe's own. ``data`` is a data set for a Fit
    before which no form writes one. ``options`` are passed on to
    every `truegain.train.run.Plan`: ``sizes``, ``max_seconds``, ``rewards``, ``command``, ``argv``.
    """

    forms: tuple[Form, ...]
    recipe: str
    out: Path
    model: str = "tiny"
    task: str = ""
    seed: int | None = None
    dtype: str = "float32"
    device: str = "cpu"
    data: Path | None = None
    records: tuple[Path, ...] = ()
    options: Mapping[str, Any] = field(default_factory=_no_options)


def execute(chain: Chain, stop: StopSignal) -> Iterator[Event]:
    """Run what is not done, and yield the events of every form between one of kind ``stage`` and one of ``left``.

    Raises what `check` raises before there is a folder, and what the forms raise.
    """
    task = check(chain)
    # Forms hand each other folders, and settings hold them: the same run may be taken up from another folder.
    chain = replace(chain, out=chain.out.absolute())
    chain.out.parent.mkdir(parents=True, exist_ok=True)
    with RunFolder(chain.out) as folder:
        folder.settings(_settings(chain), FREE)
        given = Given(chain.model, chain.model, chain.data)
        for stage in stages(chain, task):
            stage = replace(stage, given=given, form=given.form(stage.form))
            left = finished(stage.place)
            facts = {"stage": stage.label, "form": stage.kind, "number": stage.number, "of": stage.of}
            yield {"kind": "stage", **facts, "kept": left is not None, "model": given.model}
            if left is None:
                yield from ({**event, "stage": stage.label} for event in EXECUTORS[type(stage.form)](stage, stop))
                left = finished(stage.place)
            if left is None:
                return
            given = after(given, stage.place, left)
            yield {"kind": "left", **facts, "folder": str(stage.place), **left}


def stages(chain: Chain, task: Task | None) -> list[Stage]:
    """The forms with their places; what each is given is known when its turn comes."""
    trains = [n for n, form in enumerate(chain.forms) if isinstance(form, Train)]
    return [
        Stage(
            form=form,
            number=n + 1,
            of=len(chain.forms),
            place=chain.out / f"{n + 1}-{type(form).__name__.lower()}",
            recipe=chain.recipe,
            task=task,
            task_spec=chain.task,
            given=Given(chain.model, chain.model),
            seed=chain.seed,
            last=bool(trains) and n == trains[-1],
            dtype=chain.dtype,
            device=chain.device,
            records=chain.records,
            options=chain.options,
        )
        for n, form in enumerate(chain.forms)
    ]


def check(chain: Chain) -> Task | None:
    """Refuse a chain of which a form cannot be fed, before anything starts; return its task.

    Raises WiringError, SettingError or DataError that names the form and the mend.
    """
    if chain.dtype == "float16":
        raise SettingError("float16 gradients underflow without loss scaling: train in bfloat16 or float32")
    if chain.data is not None and not chain.data.is_file():
        raise DataError(f"no file {str(chain.data)!r}: --data names JSON lines in TRL's columns")
    wanted = [form for form in chain.forms if _needs_task(form, chain.data is not None)]
    if wanted and not chain.task:
        raise SettingError(
            f"{chain.recipe} needs --task, such as --task sort: an embedded task, a data file or a mixture"
        )
    task = parse(chain.task, needs_answer=any(isinstance(f, Train | Decode) for f in wanted)) if chain.task else None
    dataset, roles = chain.data is not None, set[str]()
    for number, form in enumerate(chain.forms, 1):
        try:
            dataset, roles = check_form(form, task, chain.records, dataset, roles)
        except TruegainError as error:
            if len(chain.forms) == 1:
                raise
            raise type(error)(f"form {number} of {chain.recipe}, {type(form).__name__}: {error}") from None
    return task


def _needs_task(form: Form, data: bool) -> bool:
    if isinstance(form, Study):
        return "task" in study.named(form)
    return isinstance(form, Train | Decode) or (isinstance(form, Fit) and not form.pair and not data)


def trained_roles(form: Form) -> set[str]:
    """Roles beside the policy whose weights the form leaves."""
    if isinstance(form, Train | Fit):
        return set(left_by(form))
    return set()


def check_form(
    form: Form, task: Task | None, files: Sequence[Path], dataset: bool, roles: set[str]
) -> tuple[bool, set[str]]:
    """Refuse a form that cannot be fed by a ``task``, files of records, and what the forms before it leave.

    Those leave a ``dataset``, or none, and trained ``roles``; returned is what they leave together with this one.
    """
    for name, role in getattr(form, "roles", {}).items():
        if role.source == "chain" and name not in roles:
            raise WiringError(
                f"no form before it trains role {name!r}: name a model with --set role.{name}.source=FOLDER"
            )
    if isinstance(form, Train):
        check_train(form, task)
    elif isinstance(form, Fit):
        fit.check(form, dataset, hasattr(task, "demonstration"))
    elif isinstance(form, Decode):
        decode.check(form)
    elif isinstance(form, Study):
        if {"dataset", "scores"} & set(study.named(form)) and not dataset:
            raise WiringError("the study reads a data set: a form before it must write one, or give --data FILE")
        if "margins" in study.named(form) and not roles:
            raise WiringError("the study compares reward models, which no form before it trains")
        if "records" in study.named(form) and files:
            records.check(files, "Study")
    else:
        records.check(files, type(form).__name__)
    return dataset or isinstance(form, Decode), roles | trained_roles(form)


def _settings(chain: Chain) -> dict[str, Any]:
    versions = {"python": platform.python_version()}
    versions |= {name: importlib.metadata.version(name) for name in ("truegain", "torch", "transformers")}
    return {
        "recipe": chain.recipe,
        "forms": {stage.label: _plain(stage.form) for stage in stages(chain, None)},
        "model": chain.model,
        "task": chain.task,
        "seed": chain.seed,
        "dtype": chain.dtype,
        "device": chain.device,
        "data": None if chain.data is None else str(chain.data),
        "records": [str(file) for file in chain.records],
        "threads": torch.get_num_threads(),
        "versions": versions,
        "command": chain.options.get("command", ""),
    }


def _plain(form: Form) -> dict[str, Any]:
    """A form's settings by their paths; a study's are the keywords of its function."""
    if isinstance(form, Study):
        keywords: dict[str, Any] = getattr(form.function, "keywords", {})
        return {
            name: value if isinstance(value, int | float | str) else str(type(value))
            for name, value in keywords.items()
        }
    return {
        path: value if isinstance(value, bool | int | float | str | None) else str(value)
        for path, value in settings(form).items()
    }
