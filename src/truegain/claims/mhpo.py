"""MHPO's smooth hazard against the hard clip under off-policy stress: sixteen epochs per batch on a noisy bandit."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from truegain.claims.claim import Claim
from truegain.claims.updates import loss_on, one_term, step_on
from truegain.core.batch import Batch
from truegain.core.forms import Train
from truegain.methods import objective
from truegain.recipes.mhpo import mhpo

ARMS, PROMPTS, SAMPLES, BATCHES, LAST, EPOCHS, LR = 10, 8, 8, 100, 50, 16, 0.1


def _run(form: Train, name: str, seed: int) -> dict[str, float]:
    """Deviation of the expected reward over the last batches, tokens without a gradient, the largest ratio."""
    rng = torch.Generator().manual_seed(seed)
    pays, logits = torch.rand(ARMS, generator=rng), torch.zeros(ARMS, requires_grad=True)
    optimiser = torch.optim.Adam([logits], lr=LR, betas=(0.9, 0.99))
    rows = PROMPTS * SAMPLES
    group, mask = torch.arange(PROMPTS).repeat_interleave(SAMPLES), torch.ones(rows, 1, dtype=torch.bool)
    earned, silent, felt, worst = list[float](), 0, 0, 1.0
    for _ in range(BATCHES):
        before = logits.detach().log_softmax(0)
        arms = torch.multinomial(before.exp(), rows, replacement=True, generator=rng)
        reward = (torch.rand(rows, generator=rng) < pays[arms]).float()
        step = step_on(form, Batch(mask=mask, group=group, reward=reward, old_logp=before[arms, None]))
        for _ in range(EPOCHS):
            logp = logits.log_softmax(0)[arms, None]
            logp.retain_grad()
            optimiser.zero_grad()
            loss_on(form, step, logp).backward()
            assert logp.grad is not None and step.advantages[0] is not None
            credited = step.advantages[0] != 0
            silent += int(((logp.grad == 0) & credited).sum())
            felt += int(credited.sum())
            optimiser.step()
        after = logits.detach().log_softmax(0)
        worst = max(worst, float((after - before)[arms].max().exp()))
        earned.append(float(after.exp() @ pays))
    spread = float(torch.tensor(earned[-LAST:]).double().std())
    out = {name: spread, f"without gradient, {name}": silent / max(felt, 1), f"largest ratio, {name}": worst}
    return out | {f"reward, {name}": earned[-1]}


def _one_seed(seed: int) -> Mapping[str, float]:
    clipped = one_term(mhpo(), surrogate=objective.ppo_clip)
    return {**_run(clipped, "ppo-clip", seed), **_run(mhpo(), "mhpo", seed)}


CLAIM = Claim(
    name="mhpo",
    system="mhpo",
    states="At 16 epochs per batch on a bandit with noisy rewards, the policy's expected reward varies less over the "
    "last 50 of 100 batches under MHPO than under the hard clip.",
    unit="deviation of the expected reward, ppo-clip minus mhpo",
    one_seed=_one_seed,
    effect=lambda arms: arms["ppo-clip"] - arms["mhpo"],
    threshold=0.0,
)
