"""How likely a model finds the reference answer after the first so many tokens of a rollout."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from truegain.core.types import Request, Rollout


def answer_scores(
    model: Any, rollouts: Sequence[Rollout], places: Sequence[tuple[int, int]], cue: str, ending: str, per: str
) -> Mapping[tuple[int, int], float]:
    """Log-prob of ``answer + ending`` after ``ids[:cut] + cue``, by (row, cut): its sum, or its mean per token.

    Without gradient, at temperature 1, the cue itself not counted. NaN for a problem without a reference answer.
    """
    policy = model.policy
    given = policy.encode(cue) if cue else ()
    known = [(row, cut) for row, cut in places if rollouts[row].problem.answer]
    requests: list[Request] = []
    sizes: list[int] = []
    for row, cut in known:
        parent = rollouts[row]
        wanted = policy.encode(f"{parent.problem.answer}{ending}")
        trunk = (*parent.prompt_ids, *parent.ids)
        requests.append(Request(trunk, cut=len(parent.prompt_ids) + cut, suffix=(*given, *wanted)))
        sizes.append(len(wanted))
    found = dict.fromkeys(places, float("nan"))
    for place, size, scores in zip(known, sizes, model.engine.score(requests) if requests else (), strict=True):
        total = sum(scores[len(scores) - size :])
        found[place] = total / size if per == "token" else total
    return found
