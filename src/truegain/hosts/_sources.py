"""What `Reward.of` is given: which kind of reward it names, and whether its settings fit."""

from __future__ import annotations

import math
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from truegain.core.errors import SettingError, nearest
from truegain.policy.heads import members_of
from truegain.policy.reward_model import HEAD
from truegain.tasks import NAMES
from truegain.tasks._rows import SUFFIXES
from truegain.tasks.functions import is_function
from truegain.tasks.keys import CHECKERS

Kind = Literal["task", "trl", "verl", "model"]


def named(source: Any) -> str:
    """A source as text: a function as ``pkg.mod:fn``. Raises SettingError for what is no name and no function."""
    if isinstance(source, str | os.PathLike):
        text = os.fspath(source)
        if not isinstance(text, str) or not text.strip():
            raise SettingError(f"a reward has a name (exact, sort, my_rewards.py:score, a folder), not {text!r}")
        return text
    if not callable(source):
        raise SettingError(
            f"a reward is a name (exact, sort, my_rewards.py:score, a folder) or a function, not {source!r}"
        )
    return _function(source)


def _function(function: Callable[..., Any]) -> str:
    """``pkg.mod:fn``. Raises SettingError for a function that a worker could not find again."""
    module, name = getattr(function, "__module__", None), getattr(function, "__qualname__", "")
    if module == "__main__":
        module = getattr(sys.modules["__main__"], "__file__", None)
    if module is None or not name or "<" in name:
        shown = name or f"a {type(function).__name__}"
        raise SettingError(f"{shown} has no name to find it by in a worker process: define it in a file, by def")
    return f"{module}:{name}"


def kind_of(text: str) -> Kind:
    """What a name means; ``trl`` for a function of either signature. Raises SettingError for a place without one."""
    head = text.partition(",")[0]
    if head in {*NAMES, *CHECKERS}:  # whatever folders are called
        return "task"
    path = Path(text).expanduser()
    if path.is_dir():
        if not (members_of(text) or (path / HEAD).is_file()):
            raise SettingError(f"the folder {text} holds no {HEAD}: it is no reward model")
        return "model"
    if is_function(text):
        return "trl"
    place = Path(head).expanduser()
    if "/" in head and "+" not in head and not head.lower().endswith(SUFFIXES) and not place.exists():
        beside = {one.name for one in place.parent.iterdir()} if place.parent.is_dir() else set[str]()
        raise SettingError(f"the reward {text!r} cannot be loaded: no such folder or file{nearest(place.name, beside)}")
    return "task"


def short_name(source: str) -> str:
    """A name for logs: the function's, the task's or the file's."""
    if is_function(source):
        return re.split(r"[:.]", source)[-1]
    return re.sub(r"\W+", "_", Path(source.split(",")[0].rstrip("/")).stem).strip("_") or "reward"


def check_settings(name: Any, fact: Any, deadline: Any, workers: Any, memory_mb: Any) -> None:
    """Raise SettingError for one of the wrong type or out of bounds; None is a default."""
    for key, text in (("name", name), ("fact", fact)):
        if text is not None and (not isinstance(text, str) or not text):
            raise SettingError(f"{key}={text!r}: it is text")
    for key, value, unit in (("deadline", deadline, "seconds"), ("memory_mb", memory_mb, "MiB")):
        if value is not None and not (_is_number(value) and 0 < value < math.inf):
            raise SettingError(f"{key}={value!r}: it is a number of {unit} above 0")
    if workers is not None and (isinstance(workers, bool) or not isinstance(workers, int) or workers < 1):
        raise SettingError(f"workers={workers!r}: it is a whole number of processes, 1 or more")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
