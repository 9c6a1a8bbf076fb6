"""Two real steps of a recipe on the embedded model, for the tests of this room."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import truegain.recipes  # noqa: F401  registers them
from truegain.core.settings import with_setting
from truegain.core.system import build
from truegain.policy.policy import Policy
from truegain.tasks import make
from truegain.train.folder import RunFolder
from truegain.train.online import Setup, train
from truegain.train.run import fitted

TASK = "sort,level=4,style=trace"


def two_steps(
    folder: Path, name: str, task: str = TASK, settings: Mapping[str, Any] | None = None, **knobs: Any
) -> list[dict[str, Any]]:
    """The two logged lines of a small run; every number in them must be finite."""
    (form,) = build(name, **knobs)
    made = make(task)
    form = fitted(form, made)
    for path, value in (settings or {}).items():
        form = with_setting(form, path, value)
    samples = min(form.loop.samples, 4)
    loop = form.loop.model_copy(update={"prompts": 3, "samples": samples, "steps": 2, "eval_every": 0, "lr": 1e-3})
    loop = loop.model_copy(update={"max_tokens": min(loop.max_tokens, 80)})
    with RunFolder(folder) as held:
        setup = Setup(replace(form, loop=loop), Policy.load("tiny"), made, held)
        lines = [line for line in train(setup, lambda: None) if line["kind"] == "step"]
    assert len(lines) == 2
    for line in lines:
        assert all(math.isfinite(v) for v in line.values() if isinstance(v, float)), line
    return lines
