"""IRD-ERD on written-out traces: is the tail after the answer free to remove, and repetition before it not?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from types import SimpleNamespace

import torch
from torch import Tensor

from truegain.claims.claim import Claim
from truegain.claims.updates import loss_on, step_on
from truegain.core import arithmetic
from truegain.core.batch import Batch
from truegain.core.forms import Train
from truegain.core.types import Problem, Rollout
from truegain.methods.length import redundancy_of
from truegain.recipes.grpo import grpo
from truegain.recipes.ird_erd import ird_erd

# A trace does 0 to 8 pieces of work, says each of them 1 to 4 times, states the answer, and adds 0 to 8 lines.
WORK, SAID, TAIL = 9, 4, 9
NEED = 6  # with so much work done the answer is right in 98 %, else in 60 %
KNOWS, GUESSES = 0.98, 0.6
GROUPS, SAMPLES, UPDATES, LR = 16, 8, 150, 0.3
ANSWER = "4096"
TOPICS = (
    "expand the square on the left and collect terms",
    "divide both sides by the common factor",
    "write the sum as a telescoping series",
    "bound the remainder by the next odd prime",
    "substitute the second root back in",
    "count the lattice points row by row",
    "take logarithms to base two of each",
    "compare exponents on either end",
)


def _trace(work: int, said: int, tail: int) -> str:
    """What a row with these choices writes. Pieces of work are worded alike: 0.6 is what the paper finds natural."""
    lines = [f"now we take the term and we {TOPICS[n]} so the term is {n}" for n in range(work) for _ in range(said)]
    return "\n".join([*lines, f"so it is {ANSWER}", *["let me check that again"] * tail]) + "</think>"


@lru_cache(maxsize=4096)
def _redundancy(work: int, said: int, tail: int) -> tuple[float, float]:
    text = _trace(work, said, tail)
    row = Rollout(Problem("a", "a", ANSWER), (), tuple(text.encode()), (), text, "eos", ())
    reader = SimpleNamespace(policy=SimpleNamespace(decode=lambda ids: text[: len(ids)]))
    found = redundancy_of({"policy": reader}, [row])
    return float(found["internal_redundancy"][0]), float(found["external_redundancy"][0])


def _start() -> list[Tensor]:
    """Logits of the three choices: enough work, said about three times, and a long tail."""
    work = torch.tensor([0.0] * NEED + [2.0] * (WORK - NEED))
    return [work, torch.tensor([0.0, 1.0, 2.0, 1.0]), torch.linspace(0.0, 2.0, TAIL)]


def _drawn(logits: list[Tensor], rows: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """Choices [rows, 3] and whether the answer is right [rows]."""
    picks = [torch.multinomial(one.detach().softmax(0), rows, replacement=True, generator=rng) for one in logits]
    chance = torch.where(picks[0] >= NEED, KNOWS, GUESSES)
    return torch.stack(picks, 1), (torch.rand(rows, generator=rng) < chance).float()


def _trained(form: Train, seed: int) -> list[Tensor]:
    rng = torch.Generator().manual_seed(seed)
    logits = [one.requires_grad_() for one in _start()]
    optimiser = torch.optim.SGD(logits, lr=LR)
    for _ in range(UPDATES):
        picks, right = _drawn(logits, GROUPS * SAMPLES, rng)
        found = torch.tensor([_redundancy(w, s + 1, t) for w, s, t in picks.tolist()])
        logp = torch.stack([one.log_softmax(0)[picks[:, n]] for n, one in enumerate(logits)], 1)
        batch = Batch(
            mask=torch.ones(len(picks), 3, dtype=torch.bool),
            group=torch.arange(len(picks)) // SAMPLES,
            correct=right,
            internal_redundancy=found[:, 0],
            external_redundancy=found[:, 1],
            old_logp=logp.detach(),
        )
        facts = {"progress": 0.0, "step_index": 0, "max_tokens": 3}
        batch, _ = arithmetic.reward_stage(form, batch, facts)
        optimiser.zero_grad()
        # A choice is a token: its mean weight is made up for by the learning rate.
        (loss_on(form, step_on(form, batch), logp) * 3).backward()
        optimiser.step()
    return [one.detach() for one in logits]


def _measured(logits: list[Tensor], name: str, seed: int) -> dict[str, float]:
    picks, right = _drawn(logits, 20_000, torch.Generator().manual_seed(seed + 1000))
    return {
        f"{name}: accuracy": float(right.mean()),
        f"{name}: tail": float(picks[:, 2].float().mean()),
        f"{name}: said": float(picks[:, 1].float().mean()) + 1,
    }


def _one_seed(seed: int) -> Mapping[str, float]:
    forms = {
        "outcome": replace(ird_erd(), reward=grpo().reward),
        "external": ird_erd(use="external"),
        "both, centre 0.3": ird_erd(centre=0.3),
        "both, centre 0.6": ird_erd(centre=0.6),
    }
    arms = _measured(_start(), "start", seed)
    for name, form in forms.items():
        arms |= _measured(_trained(form, seed), name, seed)
    return arms


def _effect(arms: Mapping[str, float]) -> float:
    tail = 0.1 - arms["external: tail"] / arms["start: tail"]
    free = arms["external: accuracy"] - arms["outcome: accuracy"] + 0.02
    careful = arms["both, centre 0.3: accuracy"] - arms["both, centre 0.6: accuracy"] - 0.05
    return min(tail, free, careful)


CLAIM = Claim(
    name="ird-erd",
    system="ird-erd",
    states="Paying for the share of a trace after its answer takes more than 90 % of that tail away, at no more than 2 "
    "points of accuracy against the plain outcome; and paying for repetition before the answer as well leaves more "
    "than 5 points more accuracy with the centre at 0.3 than at 0.6: the smallest of the three margins is above 0.",
    unit="smallest margin",
    one_seed=_one_seed,
    effect=_effect,
    threshold=0.0,
)
