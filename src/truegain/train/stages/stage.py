"""What every form of a chain is run with, and what it leaves for the next one."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from truegain.core.errors import DataError
from truegain.core.forms import Decode, Fit, Form, Train
from truegain.core.settings import settings, with_setting
from truegain.core.types import Task
from truegain.policy.policy import Policy
from truegain.train.folder import fsync, plain, write_atomic

DONE = "stage.json"
Event = dict[str, Any]


def _no_roles() -> Mapping[str, str]:
    return {}


@dataclass(frozen=True)
class Given:
    """What earlier forms left: the model that the policy starts from, the last data set, trained roles by name.

    ``base`` is the model that the chain began with; all are folders, or what `Policy.load` takes. ``settings`` are what
    studies found for later forms, by their paths.
    """

    base: str
    model: str
    dataset: Path | None = None
    roles: Mapping[str, str] = field(default_factory=_no_roles)
    settings: Mapping[str, Any] = field(default_factory=_no_roles)

    def form(self, form: Form) -> Form:
        """The form with what was found for it: settings that it has, and models in place of ``chain`` and ``base``."""
        known = settings(form)
        for path, value in self.settings.items():
            if path in known:
                form = with_setting(form, path, value)
        if not isinstance(form, Train | Fit | Decode):
            return form
        places = {"base": self.base}
        roles = {
            name: replace(role, source=self.roles[name] if role.source == "chain" else places[role.source])
            if role.source in ("chain", *places)
            else role
            for name, role in form.roles.items()
        }
        return replace(form, roles=roles)


@dataclass(frozen=True)
class Stage:
    """One form of a chain. ``number`` counts from 1; ``last`` says that no form follows that goes on from its model.

    ``options`` hold what `truegain.train.run.Plan` takes beside. ``seed`` None leaves a study its own.
    """

    form: Form
    number: int
    of: int
    place: Path
    recipe: str
    task: Task | None
    task_spec: str
    given: Given
    seed: int | None = None
    last: bool = True
    dtype: str = "float32"
    device: str = "cpu"
    records: tuple[Path, ...] = ()
    options: Mapping[str, Any] = field(default_factory=_no_roles)

    @property
    def kind(self) -> str:
        """The form's name."""
        return type(self.form).__name__

    @property
    def label(self) -> str:
        """``2-fit``, as its folder is called."""
        return f"{self.number}-{self.kind.lower()}"

    @property
    def drawn_with(self) -> int:
        """The seed of its draws."""
        return self.seed or 0

    def policy(self) -> Policy:
        """The model that it starts from."""
        return Policy.load(self.given.model, dtype=self.dtype, device=self.device)

    def the_task(self) -> Task:
        """Its task; `truegain.train.chain.check` has seen to it that there is one."""
        assert self.task is not None
        return self.task


Reason = Callable[[], str | None]
Executor = Callable[[Stage, Any], Iterator[Event]]


def finish(place: Path, **left: Any) -> None:
    """Say that a form is done and what it left: ``policy`` and ``roles`` (folders inside), ``dataset``, ``record``.

    ``settings`` are for the forms after it, by path. Written last: a folder without it is gone on with, one with it is
    never run again.
    """
    write_atomic(place / DONE, json.dumps(plain(left, DONE), indent=1, allow_nan=False) + "\n")


def finished(place: Path) -> dict[str, Any] | None:
    """What a form left; None if it is not done. Raises DataError for a damaged file, or one that names what is gone."""
    file = place / DONE
    if not file.is_file():
        return None
    try:
        left = json.loads(file.read_bytes())
        names = [left.get("policy"), left.get("dataset"), left.get("record"), *left.get("roles", {}).values()]
    except (OSError, ValueError, AttributeError) as error:
        raise DataError(f"{file} cannot be read ({error}): delete {place}, and the form is run again") from error
    for name in names:
        if name is not None and not (place / name).exists():
            raise DataError(f"{place} is done, but its {name} is gone: restore it, or delete {place} to run it again")
    return left


def after(given: Given, place: Path, left: Mapping[str, Any]) -> Given:
    """What the next form is given."""
    roles = {**given.roles, **{name: str(place / where) for name, where in left.get("roles", {}).items()}}
    model = str(place / left["policy"]) if left.get("policy") else given.model
    dataset = place / left["dataset"] if left.get("dataset") else given.dataset
    return Given(given.base, model, dataset, roles, {**given.settings, **left.get("settings", {})})


def put(folder: Path, write: Callable[[Path], object]) -> None:
    """Make a folder that is there whole or not at all, a power cut included: written beside, then renamed."""
    beside = folder.with_name(f".{folder.name}.{os.getpid()}")
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir(parents=True)
    write(beside)
    for file in beside.rglob("*"):
        fsync(file)
    shutil.rmtree(folder, ignore_errors=True)
    beside.rename(folder)
    fsync(folder.parent)
