from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, cast

import numpy as np

from truegain.core.component import component
from truegain.core.errors import SettingError
from truegain.core.types import Abstain, Problem, Rollout
from truegain.methods.reward._matching import greedy, hungarian, scores_of, sinkhorn

MAX_CALLS = 128
Calls = Sequence[Mapping[str, Any]]


@component("score", cite=("arXiv:2601.10712", "quchangle1/MatchTIR tool.py"), fills="turn_reward")
def match_calls(
    problem: Problem,
    rollout: Rollout,
    *,
    matching: Literal["hungarian", "greedy", "soft"] = "hungarian",
    unmatched: float = 0.0,
    reg: float = 0.1,
    iterations: int = 1000,
    answer: Literal["f1", "exact", "none"] = "f1",
) -> dict[str, list[float]] | Abstain:
    """A reward for each turn: how well its tool calls match those of a reference trace, or how good its answer is.

    Reads the calls that the task recorded (fact ``calls``) and the problem's own (``meta["calls"]``), both
    ``{"name", "parameters"}``. A call's reward is its similarity to the gold call it is matched with, each gold call
    used once: ``hungarian`` finds the largest total, ``greedy`` takes best pairs first (as released). ``soft`` is
    ``sum_j T_ij S_ij`` with T the Sinkhorn plan of regularisation ``reg``, at most ``iterations`` rounds.
    ``unmatched`` is what a call without a match gets under the first two.

    A turn's reward is the mean over its calls; the k-th call is the k-th policy turn's unless it says its ``turn``. The
    last policy turn, if it calls nothing, gets the F1 of the words of its answer (fact ``final``) and the problem's
    (``f1``), the verdict (``exact``: fact ``correct``), or 0. All other turns get 0, a tool's too. Of more than 128
    calls the later ones are unmatched. No gold calls: every call is unmatched (0 under ``soft``).

    Abstains where calls were not recorded or the problem has no reference trace. Raises SettingError for an unknown
    word, or a ``reg`` that is not positive. Source: MatchTIR 2026.

    >>> from truegain.core.types import Turn
    >>> call = {"name": "search", "parameters": {"query": "boss ann"}}
    >>> turns = (Turn("policy", 0, 1), Turn("tool", 1, 2), Turn("policy", 2, 3))
    >>> problem = Problem("p", "", "bob", {"calls": [call]})
    >>> row = Rollout(problem, (), (5, 6, 7), (), "", "stop", turns, facts={"calls": [call], "final": "bob"})
    >>> match_calls(problem, row)
    {'turn_reward': [1.0, 0.0, 1.0]}
    """
    if matching not in ("hungarian", "greedy", "soft") or answer not in ("f1", "exact", "none") or not reg > 0:
        raise SettingError(
            f"match_calls: matching={matching!r}, answer={answer!r}, reg={reg!r}; see its docstring for the choices"
        )
    called, gold = rollout.facts.get("calls"), problem.meta.get("calls")
    if called is None or gold is None:
        what = "the task recorded no calls" if called is None else "the problem has no reference calls"
        return Abstain(f"problem {problem.id}: {what}; take a task with a tool, such as calculator or search")
    per_call = call_rewards(called, gold, matching=matching, unmatched=unmatched, reg=reg, iterations=iterations)
    policy = [n for n, turn in enumerate(rollout.turns) if turn.author == "policy"]
    given: dict[int, list[float]] = {}
    for k, (call, reward) in enumerate(zip(called, per_call, strict=True)):
        given.setdefault(min(int(call.get("turn", k)), len(policy) - 1), []).append(reward)
    out = [0.0] * len(rollout.turns)
    for place, turn in enumerate(policy):
        if place in given:
            out[turn] = sum(given[place]) / len(given[place])
        elif turn == policy[-1]:
            out[turn] = _answer_reward(problem, rollout, answer)
    return {"turn_reward": out}


def call_rewards(
    called: Calls,
    gold: Calls,
    *,
    matching: Literal["hungarian", "greedy", "soft"] = "hungarian",
    unmatched: float = 0.0,
    reg: float = 0.1,
    iterations: int = 1000,
) -> list[float]:
    """The reward of each call; see `match_calls`."""
    out = [0.0 if matching == "soft" else unmatched] * len(called)
    first = called[:MAX_CALLS]
    if not first or not gold:
        return out
    scores = scores_of(first, gold[:MAX_CALLS])
    if matching == "soft":
        plan = sinkhorn(scores, reg=reg, iterations=iterations)
        return [*cast("list[float]", np.sum(plan * scores, axis=1).tolist()), *out[MAX_CALLS:]]
    for i, j in enumerate((hungarian if matching == "hungarian" else greedy)(scores)):
        if j is not None:
            out[i] = float(scores[i, j])
    return out


def _answer_reward(problem: Problem, rollout: Rollout, answer: str) -> float:
    if answer == "exact":
        return float(rollout.facts.get("correct", 0.0))
    said = rollout.facts.get("final")
    if answer == "none" or not isinstance(said, str) or problem.answer is None:
        return 0.0
    own, wanted = set(said.lower().split()), set(problem.answer.lower().split())
    return 2 * len(own & wanted) / (len(own) + len(wanted)) if own and wanted else 0.0
