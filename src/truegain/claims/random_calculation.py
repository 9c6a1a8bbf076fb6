"""Right, random and inverted rewards on problems of which some were leaked to the embedded model, and on fresh ones."""

from __future__ import annotations

import random
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch

from truegain.claims.claim import Claim
from truegain.core.forms import Train
from truegain.core.settings import loop_with, with_setting
from truegain.core.types import Problem, Rollout, Sampling, Split
from truegain.methods.verifier import complete_prompts
from truegain.policy.policy import Policy
from truegain.recipes.random_calculation import random_calculation
from truegain.rollout.collect import collect
from truegain.rollout.engines import engine_for
from truegain.tasks import TASKS
from truegain.tasks.generated import Generated
from truegain.train.folder import RunFolder
from truegain.train.online import Setup, train
from truegain.train.truth import draw, gold_of

LEVEL, PUBLIC, LEAKED, FRESH, SAMPLES = 1, 64, 20, 128, 8
LESSONS, LESSON_LR = 50, 3e-3
STEPS, PROMPTS, COMPLETIONS = 12, 8, 8
REWARDS = ("partial", "random", "inverted")


@dataclass(frozen=True)
class HalfPublic(Generated):
    """The task, of whose train problems every other one is a public one."""

    public: tuple[Problem, ...] = ()

    def problem(self, split: Split, index: int) -> Problem:
        """The index-th problem of a split."""
        half, odd = divmod(index, 2)
        return self.public[half % len(self.public)] if split == "train" and odd else super().problem(split, index)


def _leak(policy: Policy, task: Generated, leaked: Sequence[Problem], seed: int) -> None:
    """Train on the texts of the leaked problems, question and answer, among as many of other problems."""
    rng = random.Random(seed)
    optimiser = torch.optim.AdamW(policy.model.parameters(), lr=LESSON_LR, weight_decay=0.0)
    policy.model.train()
    for lesson in range(LESSONS):
        others = [task.problem("dev", (seed * LESSONS + lesson) * len(leaked) + n) for n in range(len(leaked))]
        rows = [
            policy.encode_prompt(one.prompt) + policy.encode(task.demonstration(one, rng)) for one in (*leaked, *others)
        ]
        width = max(map(len, rows))
        ids = torch.tensor([[*row, *[0] * (width - len(row))] for row in rows])
        known = torch.tensor([[True] * len(row) + [False] * (width - len(row)) for row in rows])
        logits = policy.model(input_ids=ids[:, :-1], attention_mask=known[:, :-1].long()).logits
        loss = torch.nn.functional.cross_entropy(logits[known[:, 1:]], ids[:, 1:][known[:, 1:]])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    policy.model.eval()


def _audit(policy: Policy, task: Generated, asked: Sequence[Problem]) -> float:
    """Share of the problems whose last 40 % the policy completes to the letter."""
    engine = engine_for(policy)

    def again(begun: Sequence[Problem], samples: int, *, temperature: float) -> list[Rollout]:
        how = Sampling(40, temperature)
        return collect(policy, engine, task, begun, samples=samples, sampling=how, seed=0, stage="audit", step=0)

    return complete_prompts(SimpleNamespace(again=again), asked, shares=(0.6,))[1]["exact at 0.6"]


def _one_seed(seed: int) -> Mapping[str, float]:
    plain = Generated(TASKS["calculation"], LEVEL, seed=seed)
    public = tuple(plain.problem("test", n) for n in range(PUBLIC))
    fresh = tuple(plain.problem("test", PUBLIC + n) for n in range(FRESH))
    task = HalfPublic(TASKS["calculation"], LEVEL, seed=seed, public=public)
    base = Policy.load("tiny")
    _leak(base, plain, public[:LEAKED], seed)
    arms = {
        "completed to the letter, public": _audit(base, plain, public),
        "completed to the letter, fresh": _audit(base, plain, fresh),
    }
    with tempfile.TemporaryDirectory() as place:
        base.save(Path(place) / "base")
        for name in ("start", *REWARDS):
            form = random_calculation("partial" if name == "start" else name)  # pyright: ignore[reportArgumentType]
            assert isinstance(form, Train)
            form = loop_with(form, steps=STEPS, prompts=PROMPTS, samples=COMPLETIONS, max_tokens=14)
            form = loop_with(form, eval_every=0, save_every=0)
            form = with_setting(form, "reward.random_reward.seed", seed) if name == "random" else form
            assert isinstance(form, Train)
            with RunFolder(Path(place) / name) as folder:
                setup = Setup(form, Policy.load(Path(place) / "base"), task, folder, seed)
                for _ in train(setup, lambda: None) if name != "start" else ():
                    pass
                engine = engine_for(setup.policy)
                for kind, asked in (("public", public), ("fresh", fresh)):
                    rows = draw(
                        setup, setup.policy, engine, asked, temperature=1.0, samples=SAMPLES, stage="claim", step=0
                    )
                    arms[f"{name}, {kind}"] = float(np.nanmean(gold_of(rows)))
    return arms


def _effect(arms: Mapping[str, float]) -> float:
    def gain(reward: str, kind: str) -> float:
        return arms[f"{reward}, {kind}"] - arms[f"start, {kind}"]

    return min(
        arms["completed to the letter, public"] - 10 * arms["completed to the letter, fresh"],
        gain("partial", "public"),
        gain("partial", "fresh"),
        gain("random", "public") - 0.03,
        0.01 - gain("random", "fresh"),
    )


CLAIM = Claim(
    name="random-calculation",
    system="random-calculation",
    states="The embedded model, to which 20 of 64 public problems were leaked, completes more than ten times as many "
    "of the public as of fresh problems; rewards with partial credit raise its accuracy on both; a random reward "
    "raises it by more than 3 points on the public and by less than 1 point on the fresh ones: the smallest of the "
    "five margins is above 0. The inverted reward stands beside it.",
    unit="smallest margin",
    one_seed=_one_seed,
    effect=_effect,
    threshold=0.0,
)
