"""Problems with checkable answers, and their checkers. `make` turns a spec such as ``sort,level=6`` into a task."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

from truegain.core.errors import SettingError, nearest
from truegain.core.types import Task
from truegain.tasks import add, calculation, calculator, chain, countdown, program, search, sort
from truegain.tasks.bandit import Bandit
from truegain.tasks.generated import CHARSET, MARKS, STYLES, Generated, Rules, policy_spans, token_length, tool_call

__all__ = [
    "CHARSET",
    "MARKS",
    "NAMES",
    "STYLES",
    "TASKS",
    "Bandit",
    "Generated",
    "make",
    "make_one",
    "policy_spans",
    "token_length",
    "tool_call",
]

TASKS: dict[str, Rules] = {
    room.RULES.name: room.RULES for room in (sort, countdown, add, chain, calculator, program, search, calculation)
}
NAMES = (*TASKS, "bandit", "rubric")
"""Every embedded task; `bandit` is for the table policy, `rubric` has a graded truth and preference pairs."""


def _flag(text: str) -> bool:
    return {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}[text.lower()]


_KNOBS: dict[str, Callable[[str], Any]] = {"level": int, "style": str, "seed": int, "chat": _flag, "call_cost": float}
_RUBRIC: dict[str, Callable[[str], Any]] = {"seed": int, "letters": int, "tokens": int, "flip": float}


def make_one(spec: str) -> Generated:
    """One embedded task from ``NAME[,key=value...]``; the keys are level, style, seed, chat and call_cost.

    Raises:
        SettingError: an unknown name or key, or a value that the task refuses.

    >>> make_one("sort,level=6,style=trace").level
    6
    """
    name, *settings = [part.strip() for part in spec.split(",")]
    if name not in TASKS:
        raise SettingError(f"unknown task {name!r}{nearest(name, set(NAMES))}; there are {' '.join(NAMES)}")
    rules = TASKS[name]
    legal = [key for key in _KNOBS if key != "call_cost" or rules.world is not None]
    given = _knobs(name, settings, legal)
    level = rules.default.get(given.get("style", "direct"), rules.default["direct"])
    return Generated(rules, **{"level": level, "call_cost": rules.call_cost, **given})


def _bandit(spec: str) -> Bandit:
    return Bandit(**_knobs("bandit", [part.strip() for part in spec.split(",")][1:], ["level"]))


def _rubric(spec: str) -> Task:
    from truegain.tasks.rubric import Rubric  # needs torch

    return Rubric(**_knobs("rubric", [part.strip() for part in spec.split(",")][1:], list(_RUBRIC), _RUBRIC))


def _knobs(
    name: str, settings: list[str], legal: list[str], kinds: dict[str, Callable[[str], Any]] = _KNOBS
) -> dict[str, Any]:
    knobs: dict[str, Any] = {}
    for setting in settings:
        key, _, text = setting.partition("=")
        if key not in legal:
            raise SettingError(f"task {name}: unknown key {key!r}{nearest(key, legal)}; there are {' '.join(legal)}")
        try:
            knobs[key] = kinds[key](text)
        except (ValueError, KeyError):
            raise SettingError(f"task {name}: {key} cannot be {text!r}") from None
    return knobs


def embedded(spec: str) -> Task:
    """One embedded task, bandit and rubric included; see `make_one` for the keys."""
    name = spec.partition(",")[0].strip()
    if name == "rubric":
        return _rubric(spec)
    return cast(Task, _bandit(spec) if name == "bandit" else make_one(spec))


def make(spec: str) -> Task:
    """The task that a spec names: ``sort,level=6``, ``data.jsonl``, ``gym:leg_counting``, ``sort,weight=2+add``.

    Raises SettingError or DataError naming what is wrong with the spec or the file.
    """
    from truegain.tasks.mixture import parse

    return parse(spec)
