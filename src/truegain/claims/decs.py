"""DECS against the same length reward on whole sequences: whether the steps that find the answer become rarer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from truegain.claims.claim import Claim
from truegain.claims.updates import loss_on, one_term, step_on
from truegain.core.batch import Batch
from truegain.core.forms import Train
from truegain.methods import credit
from truegain.recipes.decs import decs

LIMIT, PROMPTS, SAMPLES, UPDATES, LR = 32, 16, 16, 150, 1.0
SOLVES, KNOWS, GUESSES = 0.2, 0.95, 0.05
START = (3.0, 2.0)  # logits of going on before the answer is found, and after it
BETA = 0.5


def _draw(go_on: Tensor, rows: int, rng: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Choice [B,T] (1 goes on, 0 stops, -1 after the end) and whether the answer was found before it and after it."""
    solved, alive = torch.zeros(rows, dtype=torch.bool), torch.ones(rows, dtype=torch.bool)
    choices, before, after = list[Tensor](), list[Tensor](), list[Tensor]()
    for t in range(LIMIT):
        going = alive & (torch.rand(rows, generator=rng) < go_on.sigmoid()[solved.long()]) & (t < LIMIT - 1)
        choices.append(torch.where(alive, going.long(), -1))
        before.append(solved)
        solved = solved | (going & (torch.rand(rows, generator=rng) < SOLVES))
        after.append(solved)
        alive = going
    return torch.stack(choices, 1), torch.stack(before, 1), torch.stack(after, 1)


def _trained(form: Train, seed: int, sequence: bool) -> Tensor:
    rng = torch.Generator().manual_seed(seed)
    logits = torch.tensor(START, requires_grad=True)
    optimiser = torch.optim.SGD([logits], lr=LR)
    rows = PROMPTS * SAMPLES
    group = torch.arange(rows) // SAMPLES
    for _ in range(UPDATES):
        choice, before, after = _draw(logits.detach(), rows, rng)
        mask = choice >= 0
        chance = torch.where(after[:, -1], KNOWS, GUESSES)
        right = (torch.rand(rows, generator=rng) < chance).float()
        own = logits[before.long()]
        logp = torch.nn.functional.logsigmoid(torch.where(choice == 1, own, -own)).masked_fill(~mask, 0.0)
        batch = Batch(
            mask=mask, group=group, correct=right,
            # What the sequence-level arm pays: the same reward, on all tokens of a right row alike.
            reward=right * (1 + BETA * (1 - mask.sum(1) / LIMIT)),
            # To stop belongs to the step before it, as the end of a thought does.
            step=torch.where(mask, (torch.arange(LIMIT) - (choice == 0).long()).clamp(min=0), -1),
            has_answer=after.float(), old_logp=logp.detach(),
        )  # fmt: skip
        used = one_term(form, credit=credit.group_normalise) if sequence else form
        optimiser.zero_grad()
        loss_on(used, step_on(used, batch, LIMIT), logp).backward()
        optimiser.step()
    return logits.detach()


def _measured(logits: Tensor, seed: int, name: str) -> dict[str, float]:
    choice, before, after = _draw(logits, 20_000, torch.Generator().manual_seed(seed + 1000))
    return {
        f"{name}: goes on before the answer": float(logits[0].sigmoid()),
        f"{name}: steps after it": float(((choice == 1) & before).sum(1).double().mean()),
        f"{name}: accuracy": float(torch.where(after[:, -1], KNOWS, GUESSES).double().mean()),
    }


def _one_seed(seed: int) -> Mapping[str, float]:
    form = replace(decs(beta=BETA), plan=())
    arms = {
        "start": torch.tensor(START),
        "decs": _trained(form, seed, False),
        "whole sequences": _trained(form, seed, True),
    }
    return {key: value for name, logits in arms.items() for key, value in _measured(logits, seed, name).items()}


CLAIM = Claim(
    name="decs",
    system="decs",
    states="A reasoner finds the answer with 20 % at each step and may go on after it: 150 equal updates of the same "
    "length reward leave the chance to go on before the answer is found more than 5 points higher where DECS puts it "
    "on the steps after the answer than where it falls on whole sequences; the steps after the answer stand beside it.",
    unit="chance of going on before the answer",
    one_seed=_one_seed,
    effect=lambda arms: arms["decs: goes on before the answer"] - arms["whole sequences: goes on before the answer"],
    threshold=0.05,
)
