"""How a worker calls a TRL-style reward function: an adapter for `Workers`, loaded by path. Standard library only."""

from __future__ import annotations

import asyncio
import functools
import inspect
from collections.abc import Callable
from typing import Any

_GIVEN = ("trainer_state", "log_metric", "log_extra")


def batched(function: Callable[..., Any]) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """Wrap ``function`` to take its columns as one dictionary and to return what it gave as plain JSON.

    The answer holds ``rewards`` (a number, None or ``{"type": name}`` per row), ``metrics`` and ``extra`` (what the
    function logged), or ``missing`` (columns it requires and was not offered), or ``shape`` (what it returned
    instead of a list).
    """
    try:
        wanted, required, takes_all = parameters(function)
    except (TypeError, ValueError):  # a builtin without a signature
        wanted, required, takes_all = set(), [], True

    def call(columns: dict[str, Any]) -> dict[str, Any]:
        metrics: dict[str, list[float]] = {}
        extra: dict[str, list[Any]] = {}
        offered: dict[str, Any] = {**columns, "trainer_state": None}
        offered["log_metric"] = lambda name, value: metrics.setdefault(str(name), []).append(float(value))
        offered["log_extra"] = lambda column, values: extra.__setitem__(str(column), list(values))
        missing = [name for name in required if name not in offered]
        if missing:
            return {"missing": missing, "offered": sorted(set(offered) - set(_GIVEN))}
        returned = function(**{name: value for name, value in offered.items() if takes_all or name in wanted})
        if inspect.isawaitable(returned):
            returned = asyncio.run(_finished(returned))
        if hasattr(returned, "tolist"):
            returned = returned.tolist()
        if not isinstance(returned, list | tuple):
            return {"shape": "None" if returned is None else f"a {type(returned).__name__}"}
        means = {name: sum(values) / len(values) for name, values in metrics.items()}
        return {"rewards": [number(value) for value in returned], "metrics": means, "extra": extra}

    call.home = home_of(function)  # pyright: ignore[reportFunctionMemberAccess]
    return call


def home_of(function: Callable[..., Any]) -> str | None:
    """The file that a function, or the call of an object's class, is written in; None for what is not in Python."""
    while isinstance(function, functools.partial):
        function = function.func
    function = inspect.unwrap(function)
    code = getattr(function, "__code__", None) or getattr(type(function).__call__, "__code__", None)
    return getattr(code, "co_filename", None)


async def _finished(awaitable: Any) -> Any:
    return await awaitable


def parameters(function: Callable[..., Any]) -> tuple[set[str], list[str], bool]:
    """Names the function takes by keyword, those without a default, and whether it takes any name."""
    every = inspect.signature(function).parameters.values()
    by_name = [p for p in every if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    required = [p.name for p in every if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    return {p.name for p in by_name}, required, any(p.kind is p.VAR_KEYWORD for p in every)


def number(value: Any) -> float | dict[str, str] | None:
    """A reward as a float, None as None, anything else as the name of its type."""
    if value is None:
        return None
    if isinstance(value, str | bytes):  # float() would read "1"
        return {"type": type(value).__name__}
    try:
        return float(value)
    except OverflowError:
        return float("inf")
    except Exception:
        return {"type": type(value).__name__}
