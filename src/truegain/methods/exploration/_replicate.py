from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from truegain.core.component import component
from truegain.core.errors import SettingError
from truegain.core.types import Message, Problem, Resampled, Rollout


@component("resample", cite=("arXiv:2504.20571", "github.com/ypwang61/One-Shot-RLVR"))
def replicate(
    draw: Any,
    rollouts: Sequence[Rollout],
    state: list[dict[str, Any]] | None,
    *,
    examples: int = 1,
    copies: int = 16,
    merge: bool = False,
) -> Resampled:
    """Train on the first ``examples`` problems of the run alone, each ``copies`` times in every step.

    The problems that the first steps draw are kept in the state, so that a resumed run trains on the same ones;
    whatever else a step draws is dropped, so keep ``loop.prompts`` at 1. A copy is a problem of its own name and its
    own group, as a batch filled by repeating a row is; ``merge`` makes one group of all copies of a problem. Until a
    problem was drawn whose check did not abstain there is nothing to train on. Raises SettingError for numbers below 1.

    Which example: `accuracy_variance` ranks those of a full run; a file with that one row is a task with it.
    Source: Wang et al. 2025, training on one example.

    >>> from types import SimpleNamespace
    >>> row = Rollout(Problem("a", "1+1="), (), (), (), "", "eos", ())
    >>> loop = SimpleNamespace(round=0, samples=2, again=lambda asked, n: [replace(row, problem=p) for p in asked])
    >>> found = replicate(loop, [row], None, copies=3)
    >>> [r.problem.id for r in found.add], found.drop, found.state[0]["id"]
    (['a#0', 'a#1', 'a#2'], [0], 'a')
    """
    if examples < 1 or copies < 1:
        raise SettingError(f"replicate: examples={examples}, copies={copies}; both are 1 or more")
    kept = list(state or [])
    if draw.round > 0:
        return Resampled(state=kept)
    for rollout in rollouts:
        if len(kept) < examples and all(rollout.problem.id != known["id"] for known in kept):
            kept.append(_saved(rollout.problem))
    problems = [_problem(known) for known in kept]
    again = [p if merge else replace(p, id=f"{p.id}#{n}") for p in problems for n in range(copies)]
    return Resampled(add=draw.again(again, draw.samples), drop=list(range(len(rollouts))), state=kept)


def _saved(problem: Problem) -> dict[str, Any]:
    prompt = problem.prompt if isinstance(problem.prompt, str) else [dict(message) for message in problem.prompt]
    return {"id": problem.id, "prompt": prompt, "answer": problem.answer, "meta": dict(problem.meta)}


def _problem(saved: Mapping[str, Any]) -> Problem:
    prompt: str | Sequence[Message] = saved["prompt"]
    text = prompt if isinstance(prompt, str) else tuple(dict(message) for message in prompt)
    return Problem(saved["id"], text, saved["answer"], saved["meta"])
