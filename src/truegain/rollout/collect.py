"""From problems to scored rollouts: single-turn in one call of the engine, multi-turn in one call per turn.

A fork begins from the first tokens of a rollout. Its world is made anew, is told the tool calls of those tokens once
per place, and each row gets it from a snapshot; a world that then answers otherwise cannot be forked.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from truegain.core.draws import child_key, draw_key
from truegain.core.types import Abstain, Engine, Problem, Request, Rollout, Sample, Sampling, Stop, Task, Turn

MAX_TURNS = 8


@dataclass(frozen=True)
class Fork:
    """A row to begin from the first ``cut`` tokens of ``parent``, then ``given`` ones that are not the policy's.

    ``limit`` bounds its tokens in total; ``sample`` numbers it and ``key`` decides its draws.
    """

    parent: Rollout
    cut: int
    given: tuple[int, ...]
    limit: int
    sample: int
    key: int


@dataclass
class _Row:
    """One completion while it grows."""

    problem: Problem
    sample: int
    prompt: tuple[int, ...]
    key: int
    limit: int
    env: Any = None
    begun: Fork | None = None
    drawn: int = 0
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
    sampling, world = _with_stops(sampling, task), task.environment()
    rows = [
        _Row(
            problem, sample, prompt, draw_key(seed, stage, step, problem.id, copy + again, sample), sampling.max_tokens
        )
        for problem, again in zip(problems, _earlier(problems), strict=True)
        for prompt in [policy.encode_prompt(problem.prompt)]
        for sample in range(samples)
    ]
    if world is not None:
        for row in rows:
            _enter(row, world, policy)
    _play(rows, policy, engine, task, sampling, deadline, 1 if world is None else max_turns)
    return [_finish(row, policy, role, version) for row in rows]


def collect_forks(
    policy: Any,
    engine: Engine,
    task: Task,
    forks: Sequence[Fork],
    *,
    sampling: Sampling,
    deadline: float | None = None,
    max_turns: int = MAX_TURNS,
) -> list[Rollout]:
    """Go on from inside given rollouts, a row per fork; ``parent`` and ``cut`` are set, nothing is scored yet.

    Shared tokens keep their log-probs and authors, ``given`` ones are not the policy's. With an environment the row
    goes on turn by turn as in `collect`, in the world as it was at the cut; a call that ends what is given is
    answered first. A cut inside a tool's answer keeps the call and the answer's beginning. Turns before the cut count
    among ``max_turns``, and number the draws after it. ``sampling.max_tokens`` is not read: forks have limits.
    A world that gives another answer than the parent saw ends its row, with the reason as fact ``abstained``.
    """
    sampling, world = _with_stops(sampling, task), task.environment()
    rows = [_begun(fork) for fork in forks]
    if world is not None:
        _restore(rows, world, policy, task, sampling.stop)
    _play(rows, policy, engine, task, sampling, deadline, 1 if world is None else max_turns)
    return [_finish(row, policy, row.begun.parent.role, row.begun.parent.version) for row in rows if row.begun]


def _with_stops(sampling: Sampling, task: Task) -> Sampling:
    return replace(sampling, stop=tuple(dict.fromkeys((*sampling.stop, *getattr(task, "stop", ())))))


def _play(
    rows: list[_Row], policy: Any, engine: Engine, task: Task, sampling: Sampling, deadline: float | None, turns: int
) -> None:
    """Turn after turn, until every row has ended; with ``turns`` 1 no tool answers."""
    while going := [row for row in rows if row.stop is None]:
        if deadline is not None and time.monotonic() >= deadline:
            return
        _draw_turn(engine, going, sampling)
        for row in going:
            if row.stop in ("stop", "eos") and row.drawn < turns:
                _respond(row, task, policy)


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
    try:
        row.env, opening = _opened(row.problem, world)
    except Exception as error:
        row.stop, row.failure = "stop", _reason("environment", error)
        return
    if opening:
        row.prompt = (*row.prompt, *policy.encode(opening))


def _opened(problem: Problem, world: Any) -> tuple[Any, str | None]:
    columns = {**problem.meta, "id": problem.id, "prompt": problem.prompt, "answer": problem.answer}
    env = world()
    return env, env.reset(**columns)


def _begun(fork: Fork) -> _Row:
    """The parent up to the cut and what is given; the world is yet to come."""
    parent, cut = fork.parent, fork.cut
    row = _Row(parent.problem, fork.sample, parent.prompt_ids, fork.key, fork.limit, begun=fork)
    row.ids = [*parent.ids[:cut], *fork.given]
    row.logp = [*parent.engine_logp[:cut], *[0.0] * len(fork.given)]
    row.turns = [Turn(t.author, t.start, min(t.end, cut)) for t in parent.turns if t.start < cut]
    row.turns += [Turn("tool", cut, len(row.ids))] if fork.given else []
    return row


def _restore(rows: Sequence[_Row], world: Any, policy: Any, task: Any, stops: tuple[str, ...]) -> None:
    """Give each row the world as it was at its cut, from a replay per place; then answer a call left open."""
    states: dict[tuple[int, int], tuple[Any, str | None]] = {}
    for row in rows:
        assert row.begun is not None
        parent, cut = row.begun.parent, row.begun.cut
        if (id(parent), cut) not in states:
            states[id(parent), cut] = _replayed(parent, cut, world, policy, task)
        state, failure = states[id(parent), cut]
        if failure is not None:
            row.stop, row.failure = "stop", failure
            continue
        try:
            row.env = world()
            row.env.restore(state)
        except Exception as error:
            row.stop, row.failure = "stop", _reason("environment", error)
            continue
        row.drawn = sum(turn.author == "policy" and turn.end <= cut for turn in parent.turns)
        answered = bool(row.turns) and row.turns[-1].author == "tool" and not row.begun.given
        if row.ids and not answered and policy.decode(row.ids).endswith(stops):
            _respond(row, task, policy)


def _replayed(parent: Rollout, cut: int, world: Any, policy: Any, task: Any) -> tuple[Any, str | None]:
    """A snapshot of the parent's world at the cut, or why there is none.

    Tokens that no tool wrote and that are not the policy's were inserted: the world has no answer there.
    """
    try:
        env, _ = _opened(parent.problem, world)
        for turn in parent.turns:
            if turn.author == "tool" and turn.start < cut:
                answer = task.respond(env, policy.decode(parent.ids[: turn.start]))
                written = parent.ids[turn.start : turn.end]
                if answer is not None and tuple(policy.encode(answer))[: len(written)] != written:
                    return None, f"environment: answers {answer[:80]!r} where the forked rollout was told otherwise"
        return env.snapshot(), None
    except Exception as error:
        return None, _reason("environment", error)


def _draw_turn(engine: Engine, rows: list[_Row], sampling: Sampling) -> None:
    """One turn of the policy for all rows in one call; the longest room is drawn for all and cut to each row's own."""
    rooms = [row.limit - len(row.ids) for row in rows]
    drawn = engine.generate([_request(row) for row in rows], replace(sampling, max_tokens=max(1, *rooms)))
    for row, room, sample in zip(rows, rooms, drawn, strict=True):
        _append(row, sample, max(room, 0))


def _request(row: _Row) -> Request:
    """What is given to the row; forks of one parent share its tokens."""
    # a key of its own for each turn, as the engine counts the tokens it draws from 0
    key = row.key if row.drawn == 0 else child_key(row.key, row.drawn)
    if row.begun is None:
        return Request(trunk=row.prompt, suffix=tuple(row.ids), key=key)
    parent, cut = row.begun.parent, row.begun.cut
    return Request((*parent.prompt_ids, *parent.ids), key, len(parent.prompt_ids) + cut, tuple(row.ids[cut:]))


def _append(row: _Row, drawn: Sample, room: int) -> None:
    start = len(row.ids)
    row.ids += drawn.ids[:room]
    row.logp += drawn.logp[:room]
    if len(row.ids) > start:
        # Right behind a cut inside a turn of the policy, it is the same turn that goes on.
        same = row.begun is not None and start == row.begun.cut and start > 0 and row.turns[-1].author == "policy"
        row.turns.append(Turn("policy", row.turns.pop().start if same else start, len(row.ids)))
    row.stop = "length" if len(drawn.ids) > room else drawn.stop
    row.drawn += 1


def _respond(row: _Row, task: Any, policy: Any) -> None:
    """Append what the tool answers and open the row again; leave it as it is when nothing was called."""
    try:
        answer = task.respond(row.env, policy.decode(row.ids))
    except Exception as error:
        row.stop, row.failure = row.stop or "stop", _reason("environment", error)
        return
    if answer is None:
        return
    ids = policy.encode(answer)
    room = max(row.limit - len(row.ids), 0)
    start, kept = len(row.ids), ids[:room]
    row.ids += kept
    row.logp += [0.0] * len(kept)
    if kept:
        row.turns.append(Turn("tool", start, len(row.ids)))
    row.stop = "length" if len(ids) >= room else None


def _finish(row: _Row, policy: Any, role: str, version: int) -> Rollout:
    made = Rollout(
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
    if row.begun is None:
        return made
    parent = row.begun.parent
    return replace(made, parent=str(parent.key), cut=row.begun.cut, context=parent.context)


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
