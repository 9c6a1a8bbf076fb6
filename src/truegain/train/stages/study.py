"""`Study` in a chain: a plain function is handed what it names, and its record is written."""

from __future__ import annotations

import inspect
import json
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, cast

from torch import Tensor

from truegain.core.errors import WiringError
from truegain.core.forms import Study
from truegain.policy.policy import Policy
from truegain.train.dataset import read_dataset
from truegain.train.folder import RunFolder, plain, write_atomic
from truegain.train.launch import StopSignal
from truegain.train.scores import scored_completions
from truegain.train.stages.margins import margins_of
from truegain.train.stages.stage import Event, Stage, finish, put

RECORD = "record.json"
OFFERED = ("seed", "task", "policy", "base", "trained", "dataset", "scores", "records", "margins", "place")


def run(stage: Stage, stop: StopSignal) -> Iterator[Event]:
    """Call the function; a study has no steps, so it is run whole or anew."""
    began = time.perf_counter()
    with RunFolder(stage.place):
        yield {"kind": "begin", "total": None, "unit": "", "done": 0}
        record = dict(cast(Study, stage.form).function(**_handed(stage)))
        weights: Mapping[str, Tensor] | None = record.pop("weights", None)
        found: Mapping[str, Any] = record.get("settings", {})
        record = {name: numbers(value) for name, value in record.items()}
        if weights is not None:
            policy = stage.policy()
            policy.load_weights(weights)
            put(stage.place / "model", policy.save)
        text = json.dumps(plain({**record, "seconds": time.perf_counter() - began}, RECORD), indent=1, allow_nan=False)
        write_atomic(stage.place / RECORD, text + "\n")
    finish(stage.place, form="Study", record=RECORD, policy=None if weights is None else "model", settings=found)
    yield {"kind": "record", "file": str(stage.place / RECORD), "record": record}


def numbers(value: Any) -> Any:
    """Tensors and arrays as lists, in nested records too."""
    if isinstance(value, Mapping):
        return {str(key): numbers(item) for key, item in cast("Mapping[Any, Any]", value).items()}
    if isinstance(value, list | tuple):
        return [numbers(item) for item in cast("list[Any]", value)]
    return value.tolist() if hasattr(value, "tolist") else value


def named(form: Study) -> list[str]:
    """What a study's function asks to be handed. Raises WiringError for a name that nobody can hand it."""
    found: list[str] = []
    for parameter in inspect.signature(form.function).parameters.values():
        if parameter.name in OFFERED:
            found.append(parameter.name)
        elif parameter.default is inspect.Parameter.empty and parameter.kind is not parameter.VAR_KEYWORD:
            raise WiringError(f"the study asks for {parameter.name!r}; it can be handed {', '.join(OFFERED)}")
    return found


def _handed(stage: Stage) -> dict[str, Any]:
    """What it names, made only then; its own seed stays where the user gives none."""
    study = cast(Study, stage.form)
    own = {p.name for p in inspect.signature(study.function).parameters.values() if p.default is not p.empty}
    makers: dict[str, Callable[[], Any]] = {
        "seed": lambda: stage.drawn_with,
        "task": stage.the_task,
        "policy": stage.policy,
        "base": lambda: Policy.load(stage.given.base, dtype=stage.dtype, device=stage.device).weights(),
        "trained": lambda: stage.policy().weights(),
        "dataset": lambda: read_dataset(cast(Path, stage.given.dataset)),
        "scores": lambda: scored_completions(
            stage.given.base, cast(Path, stage.given.dataset), dtype=stage.dtype, device=stage.device
        ),
        "records": lambda: {file.stem: read_dataset(file) for file in stage.records},
        "margins": lambda: margins_of(stage.given, stage.dtype, stage.device),
        "place": lambda: stage.place,
    }
    asked = [name for name in named(study) if not (name == "seed" and stage.seed is None and name in own)]
    return {name: makers[name]() for name in asked}
