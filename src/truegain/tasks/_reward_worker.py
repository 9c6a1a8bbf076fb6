"""How a worker calls a reward: row by row, as a batch or off the main thread.

Loaded by path in worker processes. ``function`` is an adapter around what a user names, ``task`` a target of its own.
"""

from __future__ import annotations

import asyncio
import inspect
import os
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from numbers import Real
from typing import Any

from truegain.runtime._batch_call import batched, home_of, number, parameters
from truegain.runtime._worker import told

SPEC = "TRUEGAIN_REWARD"
"""The environment variable that tells a worker what to load before the first call."""
THREADS = 4
One = Callable[[int], Any]


def function(target: Callable[..., Any]) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """Adapt a TRL reward function or a verl ``compute_score``; ``{"do": "describe"}`` says which of them it is."""
    try:
        named, required, takes_all = parameters(target)
    except (TypeError, ValueError):
        named, required, takes_all = set[str](), list[str](), True
    of_verl = {"solution_str", "ground_truth"} <= named
    of_trl = not of_verl and ("completions" in named or takes_all)
    together, home = batched(target), home_of(target)

    def call(payload: dict[str, Any]) -> dict[str, Any]:
        if payload["do"] == "describe":
            return {"kind": "verl" if of_verl else "trl" if of_trl else None, "named": sorted(named)}
        columns: Mapping[str, list[Any]] = payload["columns"]
        count = len(next(iter(columns.values())))
        if of_verl:
            missing = [name for name in required if name not in columns]
            if missing:
                return {"missing": missing, "offered": sorted(columns)}
            keep = [name for name in columns if takes_all or name in named]
            return each(lambda i: _verl(target, {name: columns[name][i] for name in keep}), count, payload, home)
        if "completion_ids" not in columns and (takes_all or "completion_ids" in named):
            columns = {**columns, "completion_ids": [_ids(text) for text in columns["completions"]]}
        if payload["do"] == "batch":
            began = time.perf_counter()
            answer = together(dict(columns))
            return {**answer, "seconds": [(time.perf_counter() - began) / count] * count}
        return each(lambda i: _trl(together, {name: [v[i]] for name, v in columns.items()}), count, payload, home)

    call.home = home  # pyright: ignore[reportFunctionMemberAccess]
    return call


def ready(call: Callable[..., Any]) -> Callable[..., Any]:
    """An adapter of `task` that makes the task when the worker starts, so that no call pays for it."""
    _task(os.environ[SPEC])
    return call


def task(payload: dict[str, Any]) -> dict[str, Any]:
    """Score completions by a task: ``spec`` names it, ``problems`` and ``texts`` are what it is asked about."""
    made = _task(payload["spec"])
    if payload["do"] == "describe":
        turns = made.environment() is not None
        return {"name": made.name, "needs": _needs(made), "turns": turns, "supplies": _supplies(made)}
    fact = payload["fact"]
    rollouts = [_rollout(row, text) for row, text in zip(payload["problems"], payload["texts"], strict=True)]
    together = getattr(made, "score_all", None)
    if payload["do"] == "batch" and together is not None:
        began = time.perf_counter()
        found = together([rollout.problem for rollout in rollouts], rollouts)
        seconds = (time.perf_counter() - began) / len(rollouts)
        return {"rewards": [_fact(one, fact) for one in found], "seconds": [seconds] * len(rollouts)}
    return each(lambda i: _fact(made.score(rollouts[i].problem, rollouts[i]), fact), len(rollouts), payload, None)


def _ids(completion: Any) -> list[int]:
    """A token id for each byte: there is no tokenizer here, and rewards of length are to see a length."""
    text = completion if isinstance(completion, str) else completion[-1]["content"]
    return list(text.encode(errors="replace"))


@cache
def _task(spec: str) -> Any:
    from truegain.tasks import make
    from truegain.tasks.keys import CHECKERS, Keys

    return Keys(spec) if spec in CHECKERS else make(spec)


def _needs(made: Any) -> list[str]:
    """What a problem must carry, besides an answer, for a task to judge it."""
    from truegain.tasks import Generated
    from truegain.tasks.gym import Gym

    return ["content"] if isinstance(made, Generated) else ["number", "mark"] if isinstance(made, Gym) else []


def _supplies(made: Any) -> list[str] | None:
    """The facts that are one number for a completion; None for a task that does not say."""
    from truegain.core.columns import COLUMNS

    try:
        return [name for name in made.supplies if COLUMNS[name].shape == "B"]
    except (AttributeError, KeyError):
        return None


def _rollout(row: Mapping[str, Any], text: str) -> Any:
    from truegain.core.types import Problem, Rollout, Turn

    prompt = row["prompt"] if isinstance(row["prompt"], str) else tuple(row["prompt"])
    problem = Problem(row["id"], prompt, row["answer"], row["meta"])
    return Rollout(problem, (), (), (), text, "stop", (Turn("policy", 0, 0),))


def _fact(found: Any, fact: str | None) -> Any:
    """One of a task's facts; all that are a number when ``fact`` is None."""
    if hasattr(found, "reason"):
        return {"error": found.reason}
    if fact is None:
        return {"facts": {name: float(value) for name, value in found.items() if isinstance(value, Real)}}
    return {"error": f"it gives no {fact!r}"} if fact not in found else number(found[fact])


def each(one: One, count: int, payload: Mapping[str, Any], home: str | None) -> dict[str, Any]:
    """Row by row, each with its seconds; on threads where the payload asks for them."""
    keys: set[tuple[str, ...]] = set()

    def timed(i: int) -> tuple[Any, float]:
        began = time.perf_counter()
        try:
            value = one(i)
        except Exception as error:
            value = {"error": told(error, home)}
        if isinstance(value, dict) and "keys" in value:
            keys.add(tuple(value["keys"]))
            value = value["value"]
        return value, time.perf_counter() - began

    if payload["do"] == "threads":
        with ThreadPoolExecutor(THREADS) as pool:
            found = list(pool.map(timed, range(count)))
    else:
        found = [timed(i) for i in range(count)]
    values: Sequence[Any] = [value for value, _ in found]
    missing = [value for value in values if isinstance(value, dict) and "missing" in value]
    if missing:
        return missing[0]
    return {"rewards": values, "seconds": [seconds for _, seconds in found], "keys": sorted(keys)}


def _trl(together: Callable[[dict[str, Any]], dict[str, Any]], columns: dict[str, Any]) -> Any:
    answer = together(columns)
    if "missing" in answer:
        return answer
    if "shape" in answer:
        return {"error": f"it returned {answer['shape']}, not a list of numbers"}
    if len(answer["rewards"]) != 1:
        return {"error": f"it returned {len(answer['rewards'])} rewards for 1 completion"}
    return answer["rewards"][0]


def _verl(target: Callable[..., Any], row: dict[str, Any]) -> Any:
    given = target(**row)
    if inspect.isawaitable(given):
        given = asyncio.run(_finished(given))
    if not isinstance(given, dict):
        return number(given)
    if "score" not in given:
        return {"error": "it returned a dictionary without 'score'"}
    return {"value": number(given["score"]), "keys": sorted(map(str, given))}


async def _finished(awaitable: Any) -> Any:
    return await awaitable
