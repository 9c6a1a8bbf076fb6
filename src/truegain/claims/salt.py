"""SALT against GRPO on a corridor that every rollout walks before a fork of which one branch succeeds."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from truegain.claims.claim import Claim
from truegain.claims.updates import step_on
from truegain.core.batch import Batch
from truegain.core.forms import Train
from truegain.recipes.grpo import grpo
from truegain.recipes.salt import salt

CORRIDOR, AFTER, GROUPS, SAMPLES = 4, 2, 64, 8
STRAY = 0.05  # chance of a wrong move in each step of the corridor, from which the row never succeeds


def _ratio(form: Train, seed: int) -> float:
    """Mean size of the credit of a right move in the corridor, by that of the moves at the fork."""
    rng = torch.Generator().manual_seed(seed)
    rows, length = GROUPS * SAMPLES, CORRIDOR + 1 + AFTER
    moves = torch.zeros(rows, length, dtype=torch.long)
    moves[:, :CORRIDOR] = (torch.rand(rows, CORRIDOR, generator=rng) < STRAY).long()
    moves[:, CORRIDOR] = torch.randint(2, (rows,), generator=rng)
    sound = moves[:, :CORRIDOR].sum(1) == 0
    correct = (sound & (moves[:, CORRIDOR] == 0)).float()
    batch = Batch(
        tokens=moves,
        mask=torch.ones(rows, length, dtype=torch.bool),
        group=torch.arange(rows) // SAMPLES,
        step=torch.arange(length).expand(rows, -1),
        correct=correct,
        reward=correct,
    )
    (advantage,) = step_on(form, batch, max_tokens=length).advantages
    assert advantage is not None
    # Rows that strayed are another part of the graph.
    size = advantage[sound].abs().mean(dim=0)
    return float(size[:CORRIDOR].mean() / size[CORRIDOR])


def _one_seed(seed: int) -> Mapping[str, float]:
    return {"salt": _ratio(salt(), seed), "grpo": _ratio(grpo(), seed)}


CLAIM = Claim(
    name="salt",
    system="salt",
    states="In groups of 8 that walk a corridor, each step of which a row leaves with 5 %, before a fork with one good "
    "branch, the credit of the corridor's moves is less than a quarter of that of the fork's under SALT, "
    "and equal to it under GRPO.",
    unit="share of the fork's credit",
    one_seed=_one_seed,
    effect=lambda arms: arms["grpo"] - arms["salt"],
    threshold=0.75,
)
