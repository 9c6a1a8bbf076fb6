"""Nelder and Mead's downhill simplex as a state that is asked for a trial and told its value, one at a time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

REFLECT, EXPAND, CONTRACT, SHRINK = 1.0, 2.0, 0.5, 0.5
State = Mapping[str, Any]


def begin(start: Sequence[float], size: float) -> dict[str, Any]:
    """A simplex of ``start`` and, for each axis, ``start`` moved by ``size``; nothing is valued yet."""
    points = [list(start)] + [[x + size * (i == j) for j, x in enumerate(start)] for i in range(len(start))]
    return {"points": points, "values": [], "phase": "fill", "trial": points[0], "held": [], "held_value": 0.0}


def told(state: State, value: float) -> dict[str, Any]:
    """The state after ``state["trial"]`` got ``value``, higher being better; its own ``trial`` is the next to try."""
    now: dict[str, Any] = {**state, "points": [list(p) for p in state["points"]], "values": list(state["values"])}
    phase, trial = str(state["phase"]), list(state["trial"])
    if phase == "fill":
        now["values"].append(value)
        if len(now["values"]) < len(now["points"]):
            return {**now, "trial": now["points"][len(now["values"])]}
        return _reflect(now)
    best, worst, second = now["values"][0], now["values"][-1], now["values"][-2]
    if phase == "reflect":
        if value > best:
            return {**now, "phase": "expand", "held": trial, "held_value": value, "trial": _away(now, EXPAND)}
        if value > second:
            return _reflect(_replaced(now, trial, value))
        outside = value > worst
        step = CONTRACT if outside else -CONTRACT
        return {**now, "phase": "contract", "held": trial, "held_value": value, "trial": _away(now, step)}
    if phase == "expand":
        kept, kept_value = (trial, value) if value > now["held_value"] else (now["held"], now["held_value"])
        return _reflect(_replaced(now, kept, kept_value))
    if value > max(worst, float(now["held_value"])):
        return _reflect(_replaced(now, trial, value))
    first = np.array(now["points"][0])
    points = [now["points"][0]] + [(first + SHRINK * (np.array(p) - first)).tolist() for p in now["points"][1:]]
    return {**now, "points": points, "values": [best], "phase": "fill", "trial": points[1]}


def spread(state: State) -> float:
    """Deviation of the valued points, the criterion to stop by; infinite while some have no value."""
    whole = len(state["values"]) == len(state["points"])
    return float(np.std(state["values"])) if whole else float("inf")


def _reflect(now: dict[str, Any]) -> dict[str, Any]:
    """Order the points, best first, and ask for the worst one mirrored."""
    order = np.argsort(-np.array(now["values"]), kind="stable").tolist()
    now["points"] = [now["points"][i] for i in order]
    now["values"] = [now["values"][i] for i in order]
    return {**now, "phase": "reflect", "held": [], "held_value": 0.0, "trial": _away(now, REFLECT)}


def _away(now: State, factor: float) -> list[float]:
    """The worst point's opposite, ``factor`` times as far from the middle of the others."""
    middle = np.mean(np.array(now["points"][:-1]), axis=0)
    return (middle + factor * (middle - np.array(now["points"][-1]))).tolist()


def _replaced(now: dict[str, Any], point: Sequence[float], value: float) -> dict[str, Any]:
    now["points"][-1], now["values"][-1] = list(point), float(value)
    return now
