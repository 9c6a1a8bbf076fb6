"""PPO with and without its clip on a bandit, eight epochs per batch: how far the policy leaves its batch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial

import torch

from truegain.claims.claim import Claim
from truegain.claims.updates import loss_on, one_term, step_on
from truegain.core.batch import Batch
from truegain.core.forms import Train
from truegain.methods import objective
from truegain.recipes.ppo import ppo

# Adam moves a logit by at most about LR per step: at 0.1 eight epochs could not bring any ratio far from 1.
ARMS, ROWS, BATCHES, EPOCHS, LR = 10, 64, 60, 8, 0.5


def _run(form: Train, seed: int) -> tuple[float, float]:
    """The largest ratio that a sampled arm reached within a batch, over the run, and the final expected reward."""
    rng = torch.Generator().manual_seed(seed)
    pays, logits = torch.rand(ARMS, generator=rng), torch.zeros(ARMS, requires_grad=True)
    optimiser = torch.optim.Adam([logits], lr=LR, betas=(0.9, 0.99))
    mask, worst = torch.ones(ROWS, 1, dtype=torch.bool), 1.0
    for _ in range(BATCHES):
        before = logits.detach().log_softmax(0)
        arms = torch.multinomial(before.exp(), ROWS, replacement=True, generator=rng)
        # A critic that has converged: the value of the only state is what the policy earns on average.
        value = (before.exp() @ pays).expand(ROWS, 1)
        step = step_on(form, Batch(mask=mask, reward=pays[arms], old_value=value, old_logp=before[arms, None]))
        for _ in range(EPOCHS):
            optimiser.zero_grad()
            loss_on(form, step, logits.log_softmax(0)[arms, None]).backward()
            optimiser.step()
        worst = max(worst, float((logits.detach().log_softmax(0) - before)[arms].max().exp()))
    return worst, float(logits.detach().softmax(0) @ pays)


def _one_seed(seed: int) -> Mapping[str, float]:
    form = replace(ppo(), terms=ppo().terms[:1], roles={})
    free = one_term(form, surrogate=partial(objective.ppo_clip, clip_low=1.0, clip_high=float("inf")))
    (held, reward), (loose, loose_reward) = _run(form, seed), _run(free, seed)
    return {"clip": held, "no clip": loose, "reward, clip": reward, "reward, no clip": loose_reward}


CLAIM = Claim(
    name="ppo",
    system="ppo",
    states="At 8 epochs per batch on a bandit, the largest ratio that a sampled arm reaches within a batch is more "
    "than twice as large without the clip as with it.",
    unit="ratio of ratios",
    one_seed=_one_seed,
    effect=lambda arms: arms["no clip"] / arms["clip"],
    threshold=2.0,
)
