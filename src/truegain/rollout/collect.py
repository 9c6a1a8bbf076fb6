"""From problems to scored rollouts: single-turn in one call of the engine, multi-turn in one call per turn."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from truegain.core.draws import child_key, draw_key
from truegain.core.types import Abstain, Engine, Problem, Request, Rollout, Sample, Sampling, Stop, Task, Turn

MAX_TURNS = 8


@dataclass
class _Row:
    """One completion while it grows."""

    problem: Problem
    sample: int
    prompt: tuple[int, ...]
    key: int
    env: Any = None
    ids: list[int] = field(default_factory=list)
    logp: list[float] = field(default_factory=list)
    turns: list[Turn] = field(default_factory=list)
    stop: Stop | None = None
    failure: str | None = None


def collect(
    policy: Any,
    engine: Engine,
    task: Task,
    problems: Sequence[Problem],
    *,
    samples: int,
    sampling: Sampling,
    seed: int,
    stage: str,
    step: int,
    version: int = 0,
    role: str = "policy",
    copy: int = 0,
    deadline: float | None = None,
    max_turns: int = MAX_TURNS,
) -> list[Rollout]:
    """Draw ``samples`` completions of every problem, rows problem-major; not yet scored.

    The task's stop strings (``task.stop``) are added to the sampling's. When the task has an environment, what
    ``task.respond(env, text)`` answers to the text so far is appended as a turn of the tool, and the policy goes on,
    until there is no call, the end, ``sampling.max_tokens`` in total (the tool's tokens count) or ``max_turns`` turns
    of the policy. After ``deadline`` (seconds of `time.monotonic`) no further turn begins: rows still open stop with
    "deadline". An environment that raises ends its row, with the reason as fact ``abstained``.
    """
    sampling = replace(sampling, stop=tuple(dict.fromkeys((*sampling.stop, *getattr(task, "stop", ())))))
    world = task.environment()
    rows = [
        _Row(problem, sample, prompt, draw_key(seed, stage, step, problem.id, copy + again, sample))
        for problem, again in zip(problems, _earlier(problems), strict=True)
        for prompt in [policy.encode_prompt(problem.prompt)]
        for sample in range(samples)
    ]
    if world is not None:
        for row in rows:
            _enter(row, world, policy)
    for turn in range(1 if world is None else max_turns):
        if deadline is not None and time.monotonic() >= deadline:
            break
        going = [row for row in rows if row.stop is None]
        _draw_turn(engine, going, sampling, turn)
        if world is not None and turn + 1 < max_turns:
            for row in going:
                if row.stop in ("stop", "eos"):
                    _respond(row, task, policy, sampling.max_tokens)
    return [_finish(row, policy, role, version) for row in rows]


def _earlier(problems: Sequence[Problem]) -> list[int]:
    """How often each problem stood in the list before: a problem asked twice is to be drawn anew, not repeated."""
    seen: Counter[str] = Counter()
    out: list[int] = []
    for problem in problems:
        out.append(seen[problem.id])
        seen[problem.id] += 1
    return out


def _enter(row: _Row, world: Any, policy: Any) -> None:
    """Begin the row's own world; what it says first is added to the prompt."""
    problem = row.problem
    columns = {**problem.meta, "id": problem.id, "prompt": problem.prompt, "answer": problem.answer}
    try:
        row.env = world()
        opening = row.env.reset(**columns)
    except Exception as error:
        row.stop, row.failure = "stop", _reason("environment", error)
        return
    if opening:
        row.prompt = (*row.prompt, *policy.encode(opening))


def _draw_turn(engine: Engine, rows: list[_Row], sampling: Sampling, turn: int) -> None:
    """One turn of the policy for all rows in one call; the longest room is drawn for all and cut to each row's own."""
    if not rows:
        return
    rooms = [sampling.max_tokens - len(row.ids) for row in rows]
    requests = [
        # a key of its own for each turn, as the engine counts the tokens it draws from 0
        Request(trunk=row.prompt, suffix=tuple(row.ids), key=row.key if turn == 0 else child_key(row.key, turn))
        for row in rows
    ]
    drawn = engine.generate(requests, replace(sampling, max_tokens=max(rooms)))
    for row, room, sample in zip(rows, rooms, drawn, strict=True):
        _append(row, sample, room)


def _append(row: _Row, drawn: Sample, room: int) -> None:
    start = len(row.ids)
    row.ids += drawn.ids[:room]
    row.logp += drawn.logp[:room]
    if len(row.ids) > start:
        row.turns.append(Turn("policy", start, len(row.ids)))
    row.stop = "length" if len(drawn.ids) > room else drawn.stop


def _respond(row: _Row, task: Any, policy: Any, limit: int) -> None:
    """Append what the tool answers and open the row again; leave it closed when nothing was called."""
    try:
        answer = task.respond(row.env, policy.decode(row.ids))
    except Exception as error:
        row.failure = _reason("environment", error)
        return
    if answer is None:
        return
    ids = policy.encode(answer)
    room = limit - len(row.ids)
    start, kept = len(row.ids), ids[:room]
    row.ids += kept
    row.logp += [0.0] * len(kept)
    if kept:
        row.turns.append(Turn("tool", start, len(row.ids)))
    row.stop = "length" if len(ids) >= room else None


def _finish(row: _Row, policy: Any, role: str, version: int) -> Rollout:
    return Rollout(
        problem=row.problem,
        prompt_ids=row.prompt,
        ids=tuple(row.ids),
        engine_logp=tuple(row.logp),
        text=policy.decode(row.ids),
        stop=row.stop or "deadline",
        turns=tuple(row.turns),
        sample=row.sample,
        key=row.key,
        facts={} if row.failure is None else {"abstained": row.failure},
        role=role,
        version=version,
    )


def score_rollouts(task: Task, rollouts: Sequence[Rollout]) -> list[Rollout]:
    """Put the facts that the task's scorer finds into the rollouts.

    An abstention becomes the fact ``abstained`` with its reason, and so does a scorer that raises or that gives no
    mapping. Rollouts that abstained before are left as they are. A task that has ``score_all(problems, rollouts)`` is
    asked for all of them at once, as costly checks run side by side there.
    """
    open_rows = [i for i, rollout in enumerate(rollouts) if "abstained" not in rollout.facts]
    asked = [rollouts[i] for i in open_rows]
    together = getattr(task, "score_all", None)
    if together is None:
        found = [_facts(lambda r=r: task.score(r.problem, r)) for r in asked]
    else:
        found = _facts_of_all(lambda: together([r.problem for r in asked], asked), len(asked))
    out = list(rollouts)
    for i, facts in zip(open_rows, found, strict=True):
        out[i] = replace(out[i], facts={**out[i].facts, **facts})
    return out


def _facts(score: Callable[[], Mapping[str, Any] | Abstain]) -> Mapping[str, Any]:
    try:
        found = score()
        return {"abstained": found.reason} if isinstance(found, Abstain) else dict(found)
    except Exception as error:
        return {"abstained": _reason("scorer", error)}


def _facts_of_all(score: Callable[[], Sequence[Mapping[str, Any] | Abstain]], count: int) -> list[Mapping[str, Any]]:
    try:
        found = score() if count else []
        if len(found) != count:
            raise ValueError(f"score_all gave {len(found)} verdicts on {count} rollouts")
    except Exception as error:
        return [{"abstained": _reason("scorer", error)}] * count
    return [_facts(lambda one=one: one) for one in found]


def _reason(who: str, error: Exception) -> str:
    """One line, as it goes to logs and pages."""
    return f"{who}: {type(error).__name__}: {' '.join(str(error).split())}"[:300]
