from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from jaxtyping import Int
from torch import Tensor

from truegain.core.component import component
from truegain.core.errors import SettingError
from truegain.core.probing import CLOSING, OPENING, reasoning_end, step_cuts, table_of
from truegain.core.types import Message, Problem, Request, Rollout
from truegain.methods.credit._answer_scores import answer_scores

Ids = tuple[int, ...]


@component("probe", cite="arXiv:2601.20649", fills="step_reward")
def path_faithfulness(
    roles: Mapping[str, Any],
    draw: Any,
    rollouts: Sequence[Rollout],
    step: Int[Tensor, "B T"],
    *,
    candidates: int = 4,
    parts: int = 4,
    hint: str = "",
    closing: str = CLOSING,
    opening: str = OPENING,
    role: str = "policy",
) -> dict[str, Tensor]:
    """Reward each step by how much likelier it makes what is left of a good chain of thought to the right answer.

    The good chain o* of a problem is drawn anew in every step of the run: of ``candidates`` completions those without a
    well-formed answer are dropped, and the one whose reasoning makes the reference answer y* likeliest is taken. It is
    cut into ``parts`` of equal length; s_t is what is left of it from part t on. With p_i the rollout up to the end of
    its step i, q the prompt and log-probs as means per token:

        step_reward_i = max_t [log p(s_t | q, p_i) - log p(s_t | q)]            before the last step
        step_reward_m = log p(y* | q, the rollout's reasoning, ``closing + opening``)

    ``hint`` is added to the prompt of the candidates, ``{answer}`` in it being y*; "" shows them nothing. Without a
    well-formed candidate the steps before the last get 0, without a reference answer the last one does. NaN past a
    row's last step. Without gradient. Cost: the candidates, and steps * parts suffixes per row, which share its
    prefill. Raises SettingError for fewer than one candidate or part. Source: Zhong et al. 2026 (P2S), section 3.

    >>> from types import SimpleNamespace as Some
    >>> import torch
    >>> from truegain.core.types import Turn
    >>> row = Rollout(Problem("a", "q", "4"), (1,), (5, 6), (0.0,) * 2, "xy", "eos", (Turn("policy", 0, 2),))
    >>> policy = Some(encode=lambda text: (9,) * len(text), decode=lambda ids: "xy"[: len(ids)])
    >>> engine = Some(score=lambda asked: [(-2.0 / len(r.given),) * len(r.suffix) for r in asked])
    >>> loop = Some(again=lambda problems, n: [row])
    >>> roles = {"policy": Some(policy=policy, engine=engine)}
    >>> path_faithfulness(roles, loop, [row], torch.tensor([[0, 1]]), candidates=1, parts=1, closing="", opening="")
    {'step_reward': tensor([[ 0.1667, -0.5000]])}
    """
    if candidates < 1 or parts < 1:
        raise SettingError(f"path_faithfulness: candidates={candidates} and parts={parts} must be 1 or more")
    model, marks = roles[role], (closing, opening)
    cuts = step_cuts(step, rollouts, model.policy.decode, marks)
    left = _good_chains(model, draw, rollouts, candidates, parts, hint, marks)
    last = [(row, max(steps.values())) for row, steps in enumerate(cuts) if steps]
    answers = answer_scores(model, rollouts, last, closing + opening, "", "token")
    gains = _gains(model, rollouts, cuts, left)
    values: dict[tuple[int, int], float] = {}
    for row, end in last:
        final = max(cuts[row])
        values |= {(row, number): gains.get((row, cut), 0.0) for number, cut in cuts[row].items()}
        known = rollouts[row].problem.answer
        values[row, final] = answers[row, end] if known else 0.0
    return {"step_reward": table_of([{number: number for number in steps} for steps in cuts], values, step)}


def _good_chains(
    model: Any, draw: Any, rollouts: Sequence[Rollout], candidates: int, parts: int, hint: str, marks: Sequence[str]
) -> dict[str, list[Ids]]:
    """By problem, what is left of its good chain from each part on; nothing where there is none."""
    first = {rollout.problem.id: rollout for rollout in reversed(rollouts)}
    asked = [_hinted(rollout.problem, hint) for rollout in first.values()]
    drawn = [r for r in draw.again(asked, candidates) if "abstained" not in r.facts and r.facts.get("answered", 1.0)]
    # Judged under the prompt without the hint, and without the answer that the candidate itself gives.
    plain = [replace(r, problem=first[r.problem.id].problem, prompt_ids=first[r.problem.id].prompt_ids) for r in drawn]
    places = [(n, reasoning_end(r, model.policy.decode, marks)) for n, r in enumerate(plain)]
    found = answer_scores(model, plain, places, "".join(marks), "", "token")
    best: dict[str, tuple[float, Ids]] = {}
    for (n, end), score in zip(places, (found[place] for place in places), strict=True):
        name, chain = plain[n].problem.id, plain[n].ids[:end]
        if chain and score > best.get(name, (float("-inf"), ()))[0]:
            best[name] = (score, chain)
    return {name: _suffixes(chain, parts) for name, (_, chain) in best.items()}


def _suffixes(chain: Ids, parts: int) -> list[Ids]:
    number = min(parts, len(chain))
    return [chain[len(chain) * t // number :] for t in range(number)]


def _hinted(problem: Problem, hint: str) -> Problem:
    """The problem with the hint at the end of what the policy sees."""
    if not hint:
        return problem
    added = hint.replace("{answer}", problem.answer or "")
    if isinstance(problem.prompt, str):
        return replace(problem, prompt=problem.prompt + added)
    *before, message = problem.prompt
    said: Message = {**message, "content": f"{message.get('content', '')}\n{added}"}
    return replace(problem, prompt=(*before, said))


def _gains(
    model: Any, rollouts: Sequence[Rollout], cuts: Sequence[Mapping[int, int]], left: Mapping[str, Sequence[Ids]]
) -> dict[tuple[int, int], float]:
    """By (row, cut), the best of the gains over what is left of the good chain."""
    requests: list[Request] = []
    asked: list[tuple[tuple[int, int], tuple[str, int]]] = []
    bare: dict[tuple[str, int], int] = {}
    for row, (rollout, steps) in enumerate(zip(rollouts, cuts, strict=True)):
        trunk, name = (*rollout.prompt_ids, *rollout.ids), rollout.problem.id
        for t, suffix in enumerate(left.get(name, ())):
            if (name, t) not in bare:
                bare[name, t] = len(requests)
                requests.append(Request(rollout.prompt_ids, suffix=suffix))
                asked.append(((-1, -1), (name, t)))
            for cut in sorted(set(steps.values())):
                requests.append(Request(trunk, cut=len(rollout.prompt_ids) + cut, suffix=suffix))
                asked.append(((row, cut), (name, t)))
    means = [sum(scores) / len(scores) for scores in (model.engine.score(requests) if requests else ())]
    best: dict[tuple[int, int], float] = {}
    for (place, suffix), mean in zip(asked, means, strict=True):
        if place[0] >= 0:
            best[place] = max(best.get(place, float("-inf")), mean - means[bare[suffix]])
    return best
