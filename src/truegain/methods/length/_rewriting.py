"""Asking for a shorter trace: the prompt that shows one, and the row that comes of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from truegain.core.errors import SettingError
from truegain.core.types import Message, Problem, Rollout
from truegain.methods.length._thoughts import verdict

REWRITING = "{prompt}{trace}\nshorter:\n"
QUESTION = "question"
"""In a problem's meta: the prompt of the problem itself, where another one is asked."""


def trace_of(text: str, opening: str, closing: str) -> str:
    """The text between the marks; from the start, or to the end, where one is missing."""
    end = text.find(closing) if closing else -1
    body = text if end < 0 else text[:end]
    return body.partition(opening)[2] if opening and opening in body else body


def rewriting(problem: Problem, trace: str, template: str) -> Problem:
    """The problem asked with a trace to shorten: ``{prompt}`` and ``{trace}`` of the template filled in.

    Of chat messages the last one's content is the prompt. Raises SettingError for a template that does not show the
    trace.
    """
    if "{trace}" not in template:
        raise SettingError(f"the template {template!r} must hold {{trace}}, and may hold {{prompt}}")

    def asked(prompt: str) -> str:
        # In this order: braces in a prompt or a trace are nobody's places.
        before, _, after = template.partition("{trace}")
        return before.replace("{prompt}", prompt) + trace + after.replace("{prompt}", prompt)

    prompt = problem.prompt
    if isinstance(prompt, str):
        new: str | tuple[Message, ...] = asked(prompt)
    else:
        new = (*prompt[:-1], {**prompt[-1], "content": asked(prompt[-1]["content"])})
    return replace(problem, prompt=new, meta={**problem.meta, QUESTION: prompt})


def original(problem: Problem) -> Problem:
    """The problem as it is asked without a trace."""
    if QUESTION not in problem.meta:
        return problem
    meta = {name: value for name, value in problem.meta.items() if name != QUESTION}
    return replace(problem, prompt=problem.meta[QUESTION], meta=meta)


def one_each(rollouts: Sequence[Rollout]) -> list[Rollout]:
    """The first right one of each problem."""
    found: dict[str, Rollout] = {}
    for rollout in rollouts:
        if verdict(rollout):
            found.setdefault(rollout.problem.id, rollout)
    return list(found.values())
