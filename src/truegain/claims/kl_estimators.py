"""Where a policy ends under each KL estimator and place, against the closed form of what is meant."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor

from truegain.claims.claim import Claim
from truegain.claims.updates import loss_on, step_on
from truegain.core import arithmetic
from truegain.core.batch import Batch
from truegain.core.forms import Train
from truegain.core.kl import Estimator
from truegain.recipes.kl_estimators import kl_estimators

PROMPTS, ARMS, SAMPLES, UPDATES, LR, BETA = 16, 10, 16, 600, 4.0, 0.5
Place = Literal["loss", "reward"]
RIGHT: tuple[tuple[Place, Estimator], ...] = (("loss", "k2"), ("reward", "k1"))
WRONG: tuple[tuple[Place, Estimator], ...] = (("loss", "k1"), ("loss", "k3"), ("reward", "k2"), ("reward", "k3"))


def _distance(form: Train, seed: int) -> float:
    """Total variation between the policy, averaged over the last half, and ``ref * exp(r / beta)`` normalised."""
    rng = torch.Generator().manual_seed(seed)
    pays = torch.randn(PROMPTS, ARMS, generator=rng)
    start = torch.randn(PROMPTS, ARMS, generator=rng).log_softmax(1)
    meant = (start + pays / BETA).double().softmax(1)
    logits = start.clone().requires_grad_()
    optimiser = torch.optim.SGD([logits], lr=LR)
    group = torch.arange(PROMPTS).repeat_interleave(SAMPLES)
    mean = torch.zeros(PROMPTS, ARMS, dtype=torch.float64)
    for update in range(UPDATES):
        chance = logits.detach().softmax(1)
        arms = torch.multinomial(chance, SAMPLES, replacement=True, generator=rng).flatten()
        columns = _columns(group, arms, pays, logits.detach().log_softmax(1), start)
        batch = arithmetic.reward_stage(form, columns, {"progress": 0.0, "step_index": update, "max_tokens": 1})[0]
        optimiser.zero_grad()
        loss_on(form, step_on(form, batch), logits.log_softmax(1)[group, arms, None]).backward()
        optimiser.step()
        if update >= UPDATES // 2:
            mean += logits.detach().double().softmax(1) / (UPDATES - UPDATES // 2)
    return float((mean - meant).abs().sum(1).mean() / 2)


def _columns(group: Tensor, arms: Tensor, pays: Tensor, old: Tensor, start: Tensor) -> Batch:
    return Batch(
        mask=torch.ones(len(group), 1, dtype=torch.bool),
        group=group,
        correct=pays[group, arms],
        old_logp=old[group, arms, None],
        ref_logp=start[group, arms, None],
    )


def _one_seed(seed: int) -> Mapping[str, float]:
    return {
        f"{estimator} in the {place}": _distance(kl_estimators(estimator=estimator, place=place, beta=BETA), seed)
        for place, estimator in (*RIGHT, *WRONG)
    }


def _effect(arms: Mapping[str, float]) -> float:
    wrong = min(arms[f"{estimator} in the {place}"] for place, estimator in WRONG)
    return wrong - max(arms[f"{estimator} in the {place}"] for place, estimator in RIGHT)


CLAIM = Claim(
    name="kl-estimators",
    system="kl-estimators",
    states="Trained on 10-armed prompts with a KL penalty of 0.5, the policy ends nearer to the optimum of reward "
    "minus penalty with k2 in the loss and with k1 in the reward than with k1 or k3 in the loss or k2 or k3 in the "
    "reward, by more than 0.05 of total variation from the worse of the two to the best of the four.",
    unit="total variation",
    one_seed=_one_seed,
    effect=_effect,
    threshold=0.05,
)
