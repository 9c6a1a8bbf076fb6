from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal, cast

from torch import Tensor

from truegain.core.component import component
from truegain.core.errors import SettingError, WiringError
from truegain.core.types import Problem, Rollout, Turn

ASK = (
    "{prompt}\nA reference solution:\n{reference}\nAn attempt, step by step:\n{steps}\n"
    "Check each step against the reference. Name the first wrong one, and write the step that should stand there: "
    "<step>number</step><intervention>the step</intervention>\n"
)
_FOUND = re.compile(r"<step>\s*([0-9]{1,4})\s*</step>\s*<intervention>(.{1,2000}?)</intervention>", re.DOTALL)


@component("search", cite="arXiv:2601.14209")
def splice_corrections(
    roles: Mapping[str, Any],
    draw: Any,
    rollouts: Sequence[Rollout],
    *,
    judge: Literal["verdicts", "policy"] = "verdicts",
    proposals: int = 8,
    step_tokens: int = 32,
    continuations: int = 32,
    least: int = 1,
    per_problem: int = 1,
    mask_prefix: bool = False,
    ask: str = ASK,
) -> tuple[list[Rollout], dict[str, float]]:
    """Correct the first wrong step of each failed rollout; keep prefix and correction where someone gets on from there.

    The result is ``y_1 .. y_(t-1) + y'_t``: the rollout's own tokens before its first wrong step t, then the step put
    in its place; what stood behind is dropped. ``"verdicts"``: the task's exact judge names t, the policy proposes the
    step, ``proposals`` tries of at most ``step_tokens`` tokens from the prefix, and the first that the judge calls
    right and that is closed is taken. ``"policy"``: the model is shown its steps and the reference (the problem's
    ``trace`` or ``solution``, else its answer) by ``ask`` and names both. Kept is what at least ``least`` of
    ``continuations`` completions get right; of a problem the ``per_problem`` best. A rollout in which no wrong step is
    found is dropped. ``mask_prefix`` leaves the prefix out of the loss.

    Facts: ``intervention_step``, ``prefix_tokens``, ``continuation_correct`` (the share). Logs: ``failed``,
    ``proposed``, ``kept`` and ``length_share``, the mean share of the failed rollout that a correction is as long as.
    Raises WiringError without a segment ``step`` or on a task that judges no steps; SettingError for counts below 1.

    Source: the paper's abstract and third-party notes; the wording of its prompt is not known to us.

    >>> from types import SimpleNamespace as Some
    >>> loop = Some(rewards=lambda rows, first: [], fork=lambda places, samples, **how: [])
    >>> splice_corrections({"policy": Some(policy=None)}, loop, [])
    ([], {'failed': 0.0, 'proposed': 0.0, 'kept': 0.0})
    """
    if min(proposals, step_tokens, continuations, least, per_problem) < 1 or judge not in ("verdicts", "policy"):
        raise SettingError(
            f"splice_corrections: proposals={proposals}, step_tokens={step_tokens}, continuations={continuations}, "
            f"least={least} and per_problem={per_problem} are 1 or more, judge={judge!r} is verdicts or policy"
        )
    policy = roles["policy"].policy
    failed = [r for r, value in zip(rollouts, draw.rewards(rollouts, first=True), strict=True) if value < 1.0]
    made = _judged(draw, failed, proposals, step_tokens) if judge == "verdicts" else _asked(policy, draw, failed, ask)
    tried = draw.fork([(spliced, len(spliced.ids)) for spliced, _ in made], continuations)
    kept: dict[str, list[Rollout]] = {}
    lengths: list[float] = []
    for n, (spliced, parent) in enumerate(made):
        right = [r.facts.get("correct", 0.0) == 1.0 for r in tried[n * continuations : (n + 1) * continuations]]
        if sum(right) < least:
            continue
        cut = spliced.facts["prefix_tokens"]
        lengths.append((len(spliced.ids) - cut) / len(parent.ids))
        turns = (Turn("tool", 0, cut), Turn("policy", cut, len(spliced.ids))) if mask_prefix and cut else spliced.turns
        facts = {**spliced.facts, "continuation_correct": sum(right) / len(right)}
        kept.setdefault(parent.problem.id, []).append(replace(spliced, facts=facts, turns=turns))
    best = [_best(rows, per_problem) for rows in kept.values()]
    found = [row for rows in best for row in rows]
    logs = {"failed": float(len(failed)), "proposed": float(len(made)), "kept": float(len(found))}
    return found, logs | ({"length_share": sum(lengths) / len(lengths)} if lengths else {})


def _best(rows: list[Rollout], count: int) -> list[Rollout]:
    return sorted(rows, key=lambda r: -cast(float, r.facts["continuation_correct"]))[:count]


def _steps(draw: Any, rollouts: Sequence[Rollout]) -> list[list[int]]:
    """The step of each token."""
    if not rollouts:
        return []
    found: Tensor = draw.segments(rollouts, "step")
    return [
        row[: len(r.ids)] for row, r in zip(cast("list[list[int]]", cast(Any, found).tolist()), rollouts, strict=True)
    ]


def _judged(draw: Any, failed: Sequence[Rollout], proposals: int, room: int) -> list[tuple[Rollout, Rollout]]:
    """Corrections that the policy proposes and the task's judge calls right, each with the rollout it corrects."""
    places: list[tuple[Rollout, int, int]] = []
    for rollout, steps in zip(failed, _steps(draw, failed), strict=True):
        wrong = next((n for n, verdict in enumerate(_verdicts(draw, rollout)) if verdict < 0.5), None)
        if wrong is not None and wrong in steps:
            places.append((rollout, steps.index(wrong), wrong))
    drawn = draw.fork([(rollout, cut) for rollout, cut, _ in places], proposals, max_tokens=room)
    steps = _steps(draw, drawn)
    made: list[tuple[Rollout, Rollout]] = []
    for n, (rollout, cut, wrong) in enumerate(places):
        for i in range(n * proposals, (n + 1) * proposals):
            verdicts = _verdicts(draw, drawn[i])
            closed = wrong + 1 in steps[i] or drawn[i].stop in ("eos", "stop")
            if closed and wrong in steps[i][cut:] and verdicts[wrong : wrong + 1] == [1.0]:
                end = len(steps[i]) - steps[i][::-1].index(wrong)
                made.append((_spliced(draw, rollout, cut, drawn[i].ids[cut:end], wrong, drawn[i].key), rollout))
                break
    return made


def _verdicts(draw: Any, rollout: Rollout) -> list[float]:
    judge = getattr(draw.setup.task, "step_verdicts", None)
    found = None if judge is None else judge(rollout.problem, rollout.text)
    if found is None:
        raise WiringError(
            f"splice_corrections: task {draw.setup.task.name!r} judges no steps: take chain, sort or add with "
            "style=trace, or judge='policy'"
        )
    return list(found)


def _asked(policy: Any, draw: Any, failed: Sequence[Rollout], ask: str) -> list[tuple[Rollout, Rollout]]:
    """Corrections that the model itself gives, shown the reference. It is a model's text: nothing is assumed of it."""
    steps = _steps(draw, failed)
    questions: list[Problem] = []
    for rollout, ids in zip(failed, steps, strict=True):
        numbered = "\n".join(f"{n}: {_text(policy, rollout, ids, n)}" for n in sorted({i for i in ids if i >= 0}))
        meta = rollout.problem.meta
        reference = str(meta.get("trace") or meta.get("solution") or rollout.problem.answer)
        prompt: Any = rollout.problem.prompt
        shown = prompt if isinstance(prompt, str) else "\n".join(str(message["content"]) for message in prompt)
        text = ask.replace("{reference}", reference).replace("{steps}", numbered).replace("{prompt}", shown)
        whole = text if isinstance(prompt, str) else ({"role": "user", "content": text},)
        questions.append(Problem(f"{rollout.problem.id}/intervention-{rollout.key}", whole))
    made: list[tuple[Rollout, Rollout]] = []
    for rollout, ids, answer in zip(failed, steps, draw.again(questions, 1), strict=True):
        found = _FOUND.search(answer.text)
        wrong = int(found[1]) if found else -1
        if found is None or wrong not in ids:
            continue
        step = policy.encode(found[2] if found[2].endswith("\n") else found[2] + "\n")
        made.append((_spliced(draw, rollout, ids.index(wrong), tuple(step), wrong, answer.key), rollout))
    return made


def _text(policy: Any, rollout: Rollout, steps: Sequence[int], number: int) -> str:
    return str(policy.decode([token for token, step in zip(rollout.ids, steps, strict=True) if step == number])).strip()


def _spliced(draw: Any, rollout: Rollout, cut: int, step: tuple[int, ...], number: int, key: int) -> Rollout:
    ids = (*rollout.ids[:cut], *step)
    return replace(
        rollout,
        ids=ids,
        engine_logp=(*rollout.engine_logp[:cut], *[0.0] * len(step)),
        text=draw.setup.policy.decode(ids),
        stop="stop",
        turns=(Turn("policy", 0, len(ids)),),
        facts={"intervention_step": number, "prefix_tokens": cut},
        parent=str(rollout.key),
        cut=cut,
        key=key,
    )
