"""P2S's path faithfulness on traces of the embedded model's own task: does it tell a true step from a corrupted one?"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping
from dataclasses import replace
from types import SimpleNamespace

import torch

from truegain.claims.claim import Claim
from truegain.core.types import Problem, Rollout, Turn
from truegain.methods import credit
from truegain.policy.policy import Policy
from truegain.rollout.engines import engine_for
from truegain.rollout.segment import token_spans
from truegain.tasks import make_one
from truegain.tasks.generated import prompt_text

TASK, PROBLEMS, PARTS = "chain,level=6,style=trace", 24, 4


def _row(policy: Policy, problem: Problem, text: str) -> Rollout:
    ids = policy.encode(text)
    turns = (Turn("policy", 0, len(ids)),)
    return Rollout(problem, policy.encode_prompt(problem.prompt), ids, (0.0,) * len(ids), text, "stop", turns)


def _copies(trace: str, rng: random.Random) -> list[str]:
    """For every line but the last, the trace with that line's result changed to another digit."""
    lines = trace.split("\n")
    found: list[str] = []
    for n, line in enumerate(lines[:-1]):
        result = re.search(r"[0-9]$", line)
        assert result is not None
        wrong = (int(result[0]) + rng.randrange(1, 10)) % 10
        found.append("\n".join([*lines[:n], line[:-1] + str(wrong), *lines[n + 1 :]]))
    return found


def _one_seed(seed: int) -> Mapping[str, float]:
    rng, policy = random.Random(seed), Policy.load("tiny")
    model = SimpleNamespace(policy=policy, engine=engine_for(policy))
    task = make_one(TASK)
    chains: dict[str, Rollout] = {}
    rows: list[Rollout] = []
    for n in range(PROBLEMS):
        drawn = task.problem("dev", seed * PROBLEMS + n)
        # A trace without checks and wrong turns: what the task calls the reference.
        problem = replace(drawn, prompt=prompt_text(task.rules, str(drawn.meta["content"]), "trace"))
        while "check" in (trace := task.demonstration(problem, rng)) or "back" in trace:
            pass
        chains[problem.id] = _row(policy, problem, trace)
        rows += [chains[problem.id], *(_row(policy, problem, copy) for copy in _copies(trace, rng))]
    width = max(len(row.ids) for row in rows)
    numbers = [credit.by_step(row.text, token_spans(row.ids, policy.decode)) for row in rows]
    step = torch.tensor([[*ids, *[-1] * (width - len(ids))] for ids in numbers])
    loop = SimpleNamespace(again=lambda problems, count: [chains[problem.id] for problem in problems])
    roles = {"policy": model}
    faithful = credit.path_faithfulness(roles, loop, rows, step, candidates=1, parts=PARTS)["step_reward"]
    likely = credit.answer_likelihood(roles, rows, step)["answer_logp"]
    return {"path faithfulness": _ranked(rows, faithful), "answer likelihood": _ranked(rows, likely)}


def _ranked(rows: list[Rollout], values: torch.Tensor) -> float:
    """Share of corrupted steps below the true step at the same place, ties counting half."""
    true, place, wins = 0, 0, []
    for n, row in enumerate(rows):
        if n == 0 or row.problem.id != rows[n - 1].problem.id:
            true, place = n, 0
            continue
        gap = float(values[true, place] - values[n, place])
        wins.append(0.5 if gap == 0 else float(gap > 0))
        place += 1
    return sum(wins) / len(wins)


CLAIM = Claim(
    name="p2s",
    system="p2s",
    states="On traces of the embedded model's chain task, path faithfulness ranks more than 80 % of true steps above "
    "the same step with a wrong result; what the answer's likelihood after the step says stands beside it.",
    unit="share of steps ranked right",
    one_seed=_one_seed,
    effect=lambda arms: arms["path faithfulness"],
    threshold=0.8,
)
