from __future__ import annotations

import json
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal, cast

from truegain.core.component import component
from truegain.core.errors import SettingError, WiringError
from truegain.core.types import Abstain, Message, Resampled, Rollout

Place = tuple[int, str]
ASK = '\nWhat went wrong? Answer in JSON: {"retry_from_step": number from 0, "guidance": "one sentence"}\n'
LONGEST = 2000


@component("resample", cite="arXiv:2601.03715")
def reflect_retry(
    roles: Mapping[str, Any],
    draw: Any,
    rollouts: Sequence[Rollout],
    *,
    diagnoser: Literal["verdicts", "policy"] = "verdicts",
    judge: str = "task",
    hint: str = "",
    ask: str = ASK,
    reflection_tokens: int = 128,
    tries: int = 1,
    success: float = 1.0,
) -> Resampled:
    """Go back to where each failed rollout went wrong, with a hint of what it was, and try again from there.

    A rollout whose first reward is below ``success`` is diagnosed: which step of the form's segment ``step`` to retry,
    and what to say. ``"verdicts"`` takes the first step that ``judge`` (``task``, the task's own exact one, or
    ``openai:MODEL@URL``) calls wrong, none where it abstains, and ``hint``, with ``{step}`` and ``{line}`` filled in.
    ``"policy"`` writes ``ask`` behind the rollout, draws up to ``reflection_tokens`` and reads the first JSON object in
    them; whatever cannot be read leaves an ordinary rollout.
    ``tries`` retries are forked from the step's first token. The hint stands before a text prompt, or behind the last
    message, and only the sampler sees it: retries are trained on the prompt without it (``context``), and so that all
    rows of a problem stay one group, the others of the problem are given that context too.

    Where a retry of a policy's diagnosis reaches ``success``, the reflection becomes a row of its own, a group of one
    with the retry's facts: the model learns to diagnose. One round per step. Raises WiringError for a form without
    ``step``, or a task that judges no steps; SettingError for knobs out of bounds.

    Source: Shi et al. 2026 (R3L), sections on reflect-then-retry; its published workflow.

    >>> from types import SimpleNamespace
    >>> from truegain.core.types import Problem
    >>> row = Rollout(Problem("a", "a"), (), (1, 2), (0.0, 0.0), "x\\ny", "eos", (), key=7)
    >>> said = SimpleNamespace(steps=lambda rollouts: [[1.0, 0.0]])
    >>> form = SimpleNamespace(segment={"step": lambda text, spans: [0, 0, 1]})
    >>> policy = SimpleNamespace(decode=lambda ids: "x\\ny"[: len(ids) * 2])
    >>> loop = SimpleNamespace(setup=SimpleNamespace(form=form), round=0, rewards=lambda rows, first: [0.0])
    >>> loop.judge = lambda spec: said
    >>> loop.fork = lambda places, samples: [replace(row, parent="7", cut=cut) for row, cut in places]
    >>> [r.cut for r in reflect_retry({"policy": SimpleNamespace(policy=policy)}, loop, [row]).add]
    [1]
    """
    if diagnoser not in ("verdicts", "policy") or tries < 1 or reflection_tokens < 1:
        raise SettingError(
            f"reflect_retry: diagnoser={diagnoser!r} is verdicts or policy, tries={tries} and "
            f"reflection_tokens={reflection_tokens} are 1 or more"
        )
    segment = draw.setup.form.segment.get("step")
    if segment is None:
        raise WiringError("reflect_retry goes back to steps: give the form segment={'step': credit.by_step}")
    if draw.round > 0:
        return Resampled()
    policy = roles["policy"].policy
    failed = [r for r, value in zip(rollouts, draw.rewards(rollouts, first=True), strict=True) if value < success]
    reflections: list[Rollout] = []
    if diagnoser == "policy":
        reflections = draw.fork([(r, len(r.ids)) for r in failed], 1, insert=ask, max_tokens=reflection_tokens)
        found = [_read(policy, r, made) for r, made in zip(failed, reflections, strict=True)]
    else:
        said = draw.judge(judge).steps(failed)
        found = [_judged(r, verdicts, segment, hint) for r, verdicts in zip(failed, said, strict=True)]
    starts = [_start(policy, segment, r, place) for r, place in zip(failed, found, strict=True)]
    chosen = [i for i, start in enumerate(starts) if start is not None]
    forked = draw.fork([(_hinted(policy, failed[i], found[i]), starts[i]) for i in chosen], tries)
    said = [_words(found[i]) for i in chosen for _ in range(tries)]
    retries = [
        replace(made, prompt_ids=made.prompt_ids, context=failed[i].trained_prompt) if words else made
        for made, words, i in zip(forked, said, [i for i in chosen for _ in range(tries)], strict=True)
    ]
    learned = [] if not reflections else _lessons(policy, draw, failed, reflections, chosen, retries, tries, success)
    hinted = {made.problem.id for made in retries if made.context is not None}
    moved = [n for n, r in enumerate(rollouts) if r.problem.id in hinted and r.context is None]
    mates = [replace(rollouts[n], context=rollouts[n].prompt_ids) for n in moved]
    bare = [replace(r, context=r.trained_prompt) if r.problem.id in hinted else r for r in retries]
    return Resampled(add=[*mates, *bare, *learned], drop=moved)


def _words(place: Place | None) -> str:
    return "" if place is None else place[1]


def _judged(rollout: Rollout, verdicts: Sequence[float] | Abstain, segment: Any, hint: str) -> Place | None:
    """The first step that the judge calls wrong; None when it finds none, or abstains."""
    if isinstance(verdicts, Abstain):
        return None
    wrong = next((n for n, verdict in enumerate(verdicts) if verdict < 0.5), None)
    if wrong is None:
        return None
    text, ids = rollout.text, _steps(segment, rollout.text)
    line = "".join(text[i] for i, step in enumerate(ids) if step == wrong).strip()
    return wrong, hint.replace("{step}", str(wrong)).replace("{line}", line)


def _steps(segment: Any, text: str) -> list[int]:
    """The step of each character."""
    return list(segment(text, [(i, i + 1) for i in range(len(text))]))


def _read(policy: Any, rollout: Rollout, made: Rollout) -> Place | None:
    """What a reflection says, or None if it cannot be read. It is a model's text: bounded, and nothing is assumed."""
    written = next((t for t in reversed(made.turns) if t.author == "policy" and t.start >= len(rollout.ids)), None)
    if "abstained" in made.facts or written is None:
        return None
    text = policy.decode(made.ids[written.start : written.end])[:LONGEST]
    try:
        value: Any = json.JSONDecoder().raw_decode(text, text.index("{"))[0]
    except (ValueError, RecursionError):
        return None
    said = cast("dict[str, Any]", value) if isinstance(value, dict) else {}
    step, words = said.get("retry_from_step"), said.get("guidance")
    if isinstance(step, bool) or not isinstance(step, int) or not isinstance(words, str) or step < 0:
        return None
    return step, words


def _start(policy: Any, segment: Any, rollout: Rollout, place: Place | None) -> int | None:
    """The first token of the step to retry; None where there is no such step."""
    if place is None:
        return None
    ids = _steps(segment, rollout.text)
    if place[0] not in ids:
        return None
    character = ids.index(place[0])
    # A token that ends a step and begins the next belongs to the retry.
    return max(
        bisect_left(range(len(rollout.ids) + 1), character + 1, key=lambda n: _length(policy, rollout, n)) - 1, 0
    )


def _length(policy: Any, rollout: Rollout, tokens: int) -> int:
    return len(policy.decode(rollout.ids[:tokens]))


def _hinted(policy: Any, rollout: Rollout, place: Place | None) -> Rollout:
    """The rollout as if it had been asked with the hint."""
    words = _words(place)
    if not words:
        return rollout
    prompt = rollout.problem.prompt
    if isinstance(prompt, str):
        return replace(rollout, prompt_ids=policy.encode_prompt(words + prompt))
    last: Message = {**prompt[-1], "content": f"{prompt[-1]['content']}\n{words}"}
    return replace(rollout, prompt_ids=policy.encode_prompt((*prompt[:-1], last)))


def _lessons(
    policy: Any,
    draw: Any,
    failed: Sequence[Rollout],
    reflections: Sequence[Rollout],
    chosen: Sequence[int],
    retries: Sequence[Rollout],
    samples: int,
    success: float,
) -> list[Rollout]:
    """The reflections whose first successful retry shows that they were right, as rows to learn from."""
    values = draw.rewards(retries, first=True)
    out: list[Rollout] = []
    for n, i in enumerate(chosen):
        own = range(n * samples, (n + 1) * samples)
        good = next((j for j in own if values[j] >= success), None)
        if good is None:
            continue
        made, given = reflections[i], next(t for t in reversed(reflections[i].turns) if t.author == "policy").start
        told, problem = made.ids[given:], made.problem
        row = replace(
            made,
            problem=replace(problem, id=f"{problem.id}/reflection-{made.key}"),
            prompt_ids=(*failed[i].trained_prompt, *made.ids[:given]),
            ids=told,
            engine_logp=made.engine_logp[given:],
            text=policy.decode(told),
            turns=tuple(replace(t, start=t.start - given, end=t.end - given) for t in made.turns if t.start >= given),
            facts=retries[good].facts,
            parent=None,
            cut=None,
            context=None,
        )
        out.append(row)
    return out
