"""Dualformer against full traces and against answers alone, on three permutations to be applied one after another."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from truegain.claims.claim import Claim
from truegain.claims.small import Permutations, fitted
from truegain.core.forms import Fit
from truegain.core.types import Problem, Request, Sampling
from truegain.methods.length import drop_trace, force_first
from truegain.policy.policy import Policy
from truegain.recipes.dualformer import dualformer
from truegain.rollout.engines import engine_for

STEPS, ROWS, TESTED, CHECKS = 300, 32, 256, 0.3


def _trace(world: Permutations, problem: Problem, rng: random.Random) -> str:
    """``a=5=3``: of the letter a, what goes in and what comes out; some results are checked."""
    into, letters = int(problem.id[0]), problem.id[1:]
    lines: list[str] = []
    for letter, out in zip(letters, world.results(into, letters), strict=True):
        lines.append(f"{letter}={into}={out}")
        if rng.random() < CHECKS:
            lines.append(f"check {out}")
        into = out
    return "<think>" + "\n".join(lines) + f"</think><answer>{problem.answer}</answer>"


def _draw(world: Permutations, edit: Any) -> Callable[[random.Random], tuple[Problem, str]]:
    def draw(rng: random.Random) -> tuple[Problem, str]:
        problem = world.problem("train", rng)
        return problem, edit(_trace(world, problem, rng), rng)

    return draw


def _measured(policy: Policy, world: Permutations, seed: int, mark: str) -> tuple[float, float]:
    """Accuracy on problems that were kept when forced to begin with a mark, and tokens of the trace."""
    (token,), rng = policy.encode(mark), random.Random(f"test {seed}")
    problems = [world.problem("test", rng) for _ in range(TESTED)]
    how = Sampling(100, 0.0, stop=("</answer>",), samplers=(partial(force_first, token=token),))
    samples = engine_for(policy).generate([Request(policy.encode_prompt(p.prompt), key=0) for p in problems], how)
    right, size = 0, 0
    for problem, sample in zip(problems, samples, strict=True):
        trace, _, answer = policy.decode(sample.ids).partition("<answer>")
        right += answer.startswith(f"{problem.answer}</answer>")
        size += len(policy.encode(trace))
    return right / TESTED, size / TESTED


def _one_seed(seed: int) -> Mapping[str, float]:
    form, world = dualformer(), Permutations.drawn(seed)
    assert isinstance(form, Fit) and isinstance(form.edit, tuple)
    edits = {
        "full": partial(drop_trace, chances=(0.0, 0.0, 0.0, 0.0)),
        "answers alone": partial(drop_trace, chances=(0.0, 0.0, 0.0, 1.0)),
        "dualformer": form.edit[0],
    }
    arms: dict[str, float] = {}
    for name, edit in edits.items():
        policy = fitted(replace(form, edit=()), _draw(world, edit), seed, STEPS, ROWS)
        if name != "full":
            arms[f"{name}: fast"], _ = _measured(policy, world, seed, "<answer>")
        if name != "answers alone":
            arms[f"{name}: slow"], arms[f"{name}: trace"] = _measured(policy, world, seed, "<think>")
    return arms


def _effect(arms: Mapping[str, float]) -> float:
    fast = arms["dualformer: fast"] - arms["answers alone: fast"] - 0.05
    slow = arms["dualformer: slow"] - arms["full: slow"] + 0.02
    return min(fast, slow, 1 - arms["dualformer: trace"] / arms["full: trace"])


CLAIM = Claim(
    name="dualformer",
    system="dualformer",
    states="A transformer of three blocks learns three permutations, one after another, from as many examples each: "
    "with Dualformer it answers kept problems at once more than 5 points better than after answers alone, and thinks "
    "with a shorter trace and at most 2 points worse than after full traces: the smallest of the three margins is "
    "above 0.",
    unit="smallest margin",
    one_seed=_one_seed,
    effect=_effect,
    threshold=0.0,
)
