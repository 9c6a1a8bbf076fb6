"""`Train` in a chain: the same run as ``truegain train``, its newest checkpoint's model then copied to ``model/``."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

from truegain.core.errors import RunError
from truegain.core.forms import Train
from truegain.train import checkpoint
from truegain.train.launch import StopSignal
from truegain.train.run import Plan, execute
from truegain.train.stages.stage import Event, Stage, finish, put

_STATE = (checkpoint.TENSORS, checkpoint.STATE, checkpoint.MANIFEST)


def plan_of(stage: Stage) -> Plan:
    """The run that the form is."""
    options: dict[str, Any] = dict(stage.options)
    return Plan(
        form=cast(Train, stage.form),
        recipe=stage.recipe,
        model=stage.given.model,
        task=stage.task_spec,
        out=stage.place,
        seeds=(stage.drawn_with,),
        dtype=stage.dtype,
        device=stage.device,
        judge=stage.last,
        **options,
    )


def run(stage: Stage, stop: StopSignal) -> Iterator[Event]:
    """Train to the end, or until ``stop`` has a reason."""
    yield from execute(plan_of(stage), stop)
    if stop.reason():
        return
    found = checkpoint.latest(stage.place)
    if found is None:
        raise RunError(f"{stage.place} has no checkpoint after training: delete the folder and run again")
    put(stage.place / "model", lambda folder: _copied(found.path, folder))
    trained = [name for name, role in cast(Train, stage.form).roles.items() if role.lr is not None]
    roles = {name: f"model/roles/{name}" for name in trained if (found.path / "roles" / name).is_dir()}
    finish(stage.place, form="Train", policy="model", roles=roles, steps=found.step)


def _copied(source: Path, target: Path) -> None:
    """The model's files of a checkpoint, roles included, without the optimiser's."""
    shutil.copytree(source, target, dirs_exist_ok=True, ignore=shutil.ignore_patterns(*_STATE))
