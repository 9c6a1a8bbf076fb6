"""ReBalance on an embedded model that learned to dither: does steering by the step's numbers beat a constant push?"""

from __future__ import annotations

import random
import tempfile
from collections.abc import Mapping, Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import torch

from truegain.claims.claim import Claim
from truegain.core.draws import draw_key
from truegain.core.forms import Decode, Fit, Study
from truegain.core.settings import with_setting
from truegain.core.types import Problem, Request, Sampling
from truegain.methods.length._balance import Balance, coefficient
from truegain.policy.policy import Policy
from truegain.recipes.rebalance import rebalance
from truegain.recipes.sft import sft
from truegain.rollout.engines import engine_for
from truegain.tasks import make_one
from truegain.train.offline import Example, begin
from truegain.train.offline import sft as sft_loop
from truegain.train.tiny import demonstration_example

TASK, STEPS, ROWS, LR = "chain,level=3,style=trace", 80, 16, 1e-3
FITTED, TESTED, ROOM, HEAT = 64, 128, 120, 0.7
SLIP, CAUGHT = 0.2, 0.9  # a result is wrong; a line that takes it back follows
DITHER, AGAIN, MOST = 0.35, 0.85, 8  # lines of no use and unsure content follow a line, and each other


def _trace(problem: Problem, rng: random.Random) -> str:
    """A trace that takes its slips back where it should and dithers where it should not."""
    parts = [part.partition("=") for part in str(problem.meta["content"]).split(" ")]
    known, lines = dict[str, int](), list[str]()
    for name, _, right in parts:
        sides = "".join(str(known.get(sign, sign)) for sign in right)
        value = _value(sides)
        says = f"{name}={sides}=" if len(sides) > 1 else f"{name}="
        known[name] = (value + rng.randrange(1, 10)) % 10 if rng.random() < SLIP else value
        lines.append(f"{says}{known[name]}")
        if known[name] != value and rng.random() < CAUGHT:
            known[name] = value
            lines += ["no back", f"{says}{value}"]
        run = 0
        while run < MOST and rng.random() < (AGAIN if run else DITHER):
            lines.append("hmm" + "".join(rng.choices("01", k=3)))
            run += 1
    return "<think>" + "\n".join(lines) + f"\n</think><answer>{known[parts[-1][0]]}</answer>"


def _value(sides: str) -> int:
    """``3+4`` modulo 10."""
    if len(sides) == 1:
        return int(sides)
    x, y = int(sides[0]), int(sides[2])
    return (x + y if sides[1] == "+" else x - y if sides[1] == "-" else x * y) % 10


@lru_cache(maxsize=1)
def _dithering() -> Policy:
    """The embedded model after some steps on such traces: one and the same for all seeds, as the embedded model is."""
    policy, task, learn = Policy.load("tiny"), make_one(TASK), sft()
    assert isinstance(learn, Fit)
    fit = begin(policy, weight_decay=0.0)

    def example(index: int) -> Example:
        problem = task.problem("train", index)
        return demonstration_example(policy, problem, _trace(problem, random.Random(f"dither {index}")))

    for _ in sft_loop(learn, policy, example, fit, steps=STEPS, rows=ROWS, lr=LR, warmup=5):
        pass
    return policy


def _drawn(policy: Policy, problems: Sequence[Problem], seed: int, samplers: tuple[Any, ...]) -> list[Any]:
    keys = [draw_key(seed, "claim", 0, str(n), 0, 0) for n in range(len(problems))]
    asked = [Request(policy.encode_prompt(p.prompt), key=key) for p, key in zip(problems, keys, strict=True)]
    how = Sampling(ROOM, HEAT, stop=("</answer>",), samplers=samplers)
    return engine_for(policy).generate(asked, how)


def _measured(policy: Policy, problems: Sequence[Problem], seed: int, samplers: tuple[Any, ...]) -> tuple[float, ...]:
    """Steps and lines that take one back per answer, and accuracy."""
    steps, taken, right = 0, 0, 0
    for problem, sample in zip(problems, _drawn(policy, problems, seed, samplers), strict=True):
        trace, _, answer = policy.decode(sample.ids).partition("<answer>")
        steps += trace.count("\n")
        taken += trace.count("no back")
        right += answer.startswith(f"{problem.answer}</answer>")
    return steps / len(problems), taken / len(problems), right / len(problems)


def _mean_push(policy: Policy, rows: Sequence[Mapping[str, Any]], balance: Balance) -> float:
    """The mean coefficient at the ends of the steps of plain traces, by the numbers that the sampler reads."""
    pushes: list[float] = []
    for row in rows:
        prompt, ids = row["prompt_ids"], row["completion_ids"]
        with torch.inference_mode():
            logits = policy.model(input_ids=torch.tensor([prompt + ids])).logits[0, len(prompt) - 1 : -1]
        peak, total, count, before = logits.softmax(-1).amax(-1).double(), 0.0, 0, None
        for token, sure in zip(ids[1:], peak.tolist()[1:], strict=True):
            piece = policy.decode((token,))
            if "</think>" in piece:
                break
            total, count = total + sure, count + 1
            if "\n" in piece:
                here = torch.tensor([total / count], dtype=torch.float64)
                jump = torch.zeros(1, dtype=torch.float64) if before is None else (here - before) ** 2 / 4
                pushes.append(float(coefficient(here, jump, balance)))
                total, count, before = 0.0, 0, here
    return sum(pushes) / len(pushes)


def _one_seed(seed: int) -> Mapping[str, float]:
    policy, task = _dithering(), make_one(TASK)
    problems = [task.problem("dev", seed * 10_000 + n) for n in range(FITTED)]
    tested = [task.problem("dev", seed * 10_000 + 5_000 + n) for n in range(TESTED)]
    drawn = zip(problems, _drawn(policy, problems, seed + 1000, ()), strict=True)
    rows = [{"prompt_ids": list(policy.encode_prompt(p.prompt)), "completion_ids": list(s.ids)} for p, s in drawn]
    _, study, decode = rebalance()
    assert isinstance(study, Study) and isinstance(decode, Decode)
    with tempfile.TemporaryDirectory() as place:
        found = study.function(policy=policy, dataset=rows, place=Path(place))
        form: Any = decode
        for path, value in found["settings"].items():
            form = with_setting(form, path, value)
        (steer,) = form.sampler
        level = _mean_push(policy, rows, Balance(found["sure"], found["restless"], found["low"], found["hard_low"]))
        arms = {"plain": (), "steered": (steer,), "constant": (partial(steer, constant=level),)}
        measured = {name: _measured(policy, tested, seed, samplers) for name, samplers in arms.items()}
    names = ("steps", "taken back", "accuracy")
    said = {f"{arm}: {name}": v for arm, values in measured.items() for name, v in zip(names, values, strict=True)}
    return said | {"mean push": level, "layer": found["layer"], "hard_low": found["hard_low"]}


def _effect(arms: Mapping[str, float]) -> float:
    fewer = 1 - arms["steered: steps"] / arms["plain: steps"] - 0.25
    kept = arms["steered: accuracy"] - arms["plain: accuracy"] + 0.01
    return min(fewer, kept, arms["steered: accuracy"] - arms["constant: accuracy"])


CLAIM = Claim(
    name="rebalance",
    system="rebalance",
    states="On the embedded model after it learned to dither in unsure lines and to take slips back in sure ones, "
    "steering by the step's numbers takes away more than 25 % of the steps at no more than 1 point of accuracy, and a "
    "constant push of the same mean loses more accuracy: the smallest of the three margins is above 0.",
    unit="smallest margin",
    one_seed=_one_seed,
    effect=_effect,
    threshold=0.0,
)
