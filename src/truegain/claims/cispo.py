"""CISPO against the clipped loss on a bandit whose one good arm is rare, several epochs per batch."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch

from truegain.claims.claim import Claim
from truegain.claims.updates import loss_on, one_term, step_on
from truegain.core.batch import Batch
from truegain.core.forms import Train
from truegain.methods import objective
from truegain.recipes.cispo import cispo

ARMS, RARE, PROMPTS, SAMPLES, EPOCHS, LR, MOST = 10, 0.01, 16, 8, 8, 0.1, 100


def _batches_needed(form: Train, seed: int) -> float:
    """Batches until the policy chooses the good arm half the time; `MOST` when it does not get there."""
    rng = torch.Generator().manual_seed(seed)
    logits = torch.full((ARMS,), math.log((1 - RARE) / (ARMS - 1)))
    logits[0] = math.log(RARE)
    logits.requires_grad_()
    optimiser = torch.optim.Adam([logits], lr=LR, betas=(0.9, 0.99))
    rows = PROMPTS * SAMPLES
    group, mask = torch.arange(PROMPTS).repeat_interleave(SAMPLES), torch.ones(rows, 1, dtype=torch.bool)
    for done in range(MOST):
        policy = logits.detach().softmax(0)
        if policy[0] > 0.5:
            return float(done)
        arms = torch.multinomial(policy, rows, replacement=True, generator=rng)
        batch = Batch(
            mask=mask, group=group, reward=(arms == 0).float(), old_logp=logits.detach().log_softmax(0)[arms, None]
        )
        step = step_on(form, batch)
        for _ in range(EPOCHS):
            optimiser.zero_grad()
            loss_on(form, step, logits.log_softmax(0)[arms, None]).backward()
            optimiser.step()
    return float(MOST)


def _one_seed(seed: int) -> Mapping[str, float]:
    clipped = one_term(cispo(), surrogate=objective.ppo_clip)
    return {"ppo-clip": _batches_needed(clipped, seed), "cispo": _batches_needed(cispo(), seed)}


CLAIM = Claim(
    name="cispo",
    system="cispo",
    states="On a bandit of ten arms whose good one has probability 0.01, at 8 epochs per batch, the clipped loss needs "
    "more than 1.2 times as many batches as CISPO until the good arm is chosen half the time.",
    unit="ratio of batches",
    one_seed=_one_seed,
    effect=lambda arms: arms["ppo-clip"] / arms["cispo"],
    threshold=1.2,
)
