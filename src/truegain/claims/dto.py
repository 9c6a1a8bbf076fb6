"""DTO on a reasoner that goes on after it has solved the problem: is the place found, and does preference shorten?"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from truegain.claims.claim import Claim
from truegain.core.component import call
from truegain.core.forms import Decode, Fit
from truegain.core.types import Problem, Rollout
from truegain.recipes.dto import dto

# A thought is a line: it works until the problem is solved at a known thought, and then may overturn the answer.
PROBLEMS, SAMPLES, MOST, DEEPEST, TESTED = 100, 4, 20, 6, 4_000
GOOD, FLIP = 0.9, 0.05
FORCED = {"open": 0.05, "right": 0.95, "wrong": 0.02}  # how often an answer forced there is right
START = 2.0  # logit of going on, before and after the answer: 88 %
UPDATES, LR = 150, 0.5


def _trace(problem: Problem, go_on: Sequence[float], rng: random.Random) -> Rollout:
    """A trace of a problem that is solved at the thought its answer names; the policy sees whether it is solved."""
    states, lines, state = list[str](), list[str](), "open"
    while len(lines) < MOST:
        if lines and rng.random() >= go_on[state != "open"]:
            break
        if state == "open" and len(lines) + 1 >= int(problem.answer or 0):
            state = "right" if rng.random() < GOOD else "wrong"
        elif state != "open" and rng.random() < FLIP:
            state = "wrong" if state == "right" else "right"
        lines.append(f"wait {state}\n")
        states.append(state)
    right = rng.random() < FORCED[states[-1]]
    return _row(problem, "".join(lines) + "</think>", right)


def _row(problem: Problem, text: str, right: bool) -> Rollout:
    ids = tuple(text.encode())
    return Rollout(problem, (), ids, (0.0,) * len(ids), text, "eos", (), facts={"correct": float(right)})


def _states(text: str) -> list[str]:
    """What was known after each thought."""
    return [line.split()[1] for line in text.replace("</think>", "").splitlines() if line]


class _Loop:
    """Answers are right with the chance of the state at the cut."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng

    def fork(self, places: Sequence[tuple[Rollout, int]], samples: int, **how: Any) -> list[Rollout]:
        found: list[Rollout] = []
        for trace, cut in places:
            text = bytes(trace.ids[:cut]).decode()
            known = _states(text)
            for _ in range(samples):
                found.append(_row(trace.problem, text + "</think>", self.rng.random() < FORCED[known[-1]]))
        return found


def _decisions(text: str) -> Tensor:
    """How often the policy went on and stopped, unsolved and solved: [2, 2] by (solved, went on)."""
    found, states = torch.zeros(2, 2), _states(text)
    for n, state in enumerate(states):
        found[int(state != "open"), int(n + 1 < len(states))] += 1
    return found


def _preferred(form: Fit, pairs: Sequence[Any]) -> list[float]:
    """The chances of going on after training on the pairs."""
    logits = torch.full((2,), START, requires_grad=True)
    optimiser = torch.optim.Adam([logits], lr=LR / 10)
    sides = {side: torch.stack([_decisions(getattr(pair, side)) for pair in pairs]) for side in ("chosen", "rejected")}
    (member,) = form.pair if isinstance(form.pair, tuple) else (form.pair,)
    for _ in range(UPDATES):
        logp = torch.stack([torch.nn.functional.logsigmoid(-logits), torch.nn.functional.logsigmoid(logits)], 1)
        columns: dict[str, Tensor] = {}
        for side, counts in sides.items():
            # A completion of one token that has the mean log-prob of its decisions.
            columns[f"{side}_logp"] = ((counts * logp).sum(dim=(1, 2)) / counts.sum(dim=(1, 2)))[:, None]
            columns[f"{side}_mask"] = torch.ones(len(pairs), 1, dtype=torch.bool)
        optimiser.zero_grad()
        call(member, columns, {})[0].mean().backward()
        optimiser.step()
    return logits.detach().sigmoid().tolist()


def _measured(go_on: Sequence[float], name: str, rng: random.Random) -> dict[str, float]:
    rows = [_trace(_problem(n, rng), go_on, rng) for n in range(TESTED)]
    return {
        f"{name}: accuracy": sum(float(r.facts["correct"]) for r in rows) / TESTED,
        f"{name}: thoughts": sum(len(_states(r.text)) for r in rows) / TESTED,
    }


def _problem(number: int, rng: random.Random) -> Problem:
    return Problem(str(number), "q", str(rng.randint(1, DEEPEST)))


def _one_seed(seed: int) -> Mapping[str, float]:
    rng = random.Random(seed)
    begun = [1 / (1 + 2.718281828**-START)] * 2
    problems = [_problem(n, rng) for n in range(PROBLEMS)]
    traces = [_trace(p, begun, rng) for p in problems for _ in range(SAMPLES)]
    decode, fit = dto(words=("wait",), prune=False)
    assert isinstance(decode, Decode) and isinstance(decode.search, tuple)
    policy = SimpleNamespace(policy=SimpleNamespace(decode=lambda ids: bytes(ids).decode(), eos_ids=()))
    search: partial[Any] = partial(decode.search[0], opening="")
    # Alone, each trace is paired with itself, cut: where it is cut says which thought was found.
    single = [replace(t, problem=replace(t.problem, id=f"{n}")) for n, t in enumerate(traces) if _solved(t) is not None]
    places = {pair.id: pair.meta["exit"] for pair in search({"policy": policy}, _Loop(rng), single)}
    found = [abs(places.get(t.problem.id, 99) - int(_solved(t) or 0)) <= 1 for t in single if _later(t)]
    pairs = search({"policy": policy}, _Loop(rng), traces)
    arms = _measured(begun, "before", rng) | _measured(_preferred(fit, pairs), "after", rng)
    return arms | {"thought found": sum(found) / len(found), "pairs": len(pairs)}


def _solved(trace: Rollout) -> int | None:
    """The first thought, from 1, after which the answer was right."""
    states = _states(trace.text)
    return states.index("right") + 1 if "right" in states else None


def _later(trace: Rollout) -> bool:
    """True if there is something to cut off."""
    return len(_states(trace.text)) > (_solved(trace) or 0)


def _effect(arms: Mapping[str, float]) -> float:
    shorter = 1 - arms["after: thoughts"] / arms["before: thoughts"] - 0.3
    return min(arms["thought found"] - 0.9, shorter, arms["after: accuracy"] - arms["before: accuracy"] + 0.01)


CLAIM = Claim(
    name="dto",
    system="dto",
    states="The exit is found within one thought of where the problem was solved in more than 90 % of traces that go "
    "on behind it, and SimPO on the pairs makes the policy more than 30 % shorter at no more than 1 point of accuracy: "
    "the smallest of the three margins is above 0.",
    unit="smallest margin",
    one_seed=_one_seed,
    effect=_effect,
    threshold=0.0,
)
