"""EMPG against GRPO on a chain in which the policy is sure of wrong actions at some steps and unsure at others."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch

from truegain.claims.claim import Claim
from truegain.claims.updates import loss_on, one_term, step_on
from truegain.core.batch import Batch
from truegain.core.forms import Train
from truegain.methods import objective
from truegain.recipes.empg import empg
from truegain.recipes.grpo import grpo

SURE, UNSURE, ACTIONS = 2, 6, 4
PROMPTS, SAMPLES, UPDATES, LR = 16, 8, 40, 8.0
WRONG = math.log(27.0)  # the logit that makes one wrong action of four 90 % likely


def _drop(form: Train, seed: int) -> float:
    """Mean fall of the wrong action's probability over the steps that began with 90 % of it."""
    rng = torch.Generator().manual_seed(seed)
    # One update per batch, so the ratio is 1, and the plain gradient is that of the clipped loss.
    form = one_term(form, surrogate=objective.policy_gradient)
    logits = torch.zeros(SURE + UNSURE, ACTIONS)
    logits[:SURE, 1] = WRONG
    logits.requires_grad_()
    rows = PROMPTS * SAMPLES
    group, step = torch.arange(rows) // SAMPLES, torch.arange(SURE + UNSURE).expand(rows, -1)
    optimiser = torch.optim.SGD([logits], lr=LR)
    for _ in range(UPDATES):
        chance = logits.detach().softmax(-1)
        action = torch.multinomial(chance, rows, replacement=True, generator=rng).T
        # Action 0 is the right one; each right step makes success likelier by an eighth.
        correct = (torch.rand(rows, generator=rng) < (action == 0).float().mean(1)).float()
        entropy = -(chance * chance.log()).sum(-1).expand(rows, -1)
        batch = Batch(
            mask=torch.ones(step.shape, dtype=torch.bool),
            group=group,
            step=step,
            correct=correct,
            reward=correct,
            old_logp=-entropy,  # the paper's own measure in the place of its one-sample estimate
        )
        logp = logits.log_softmax(-1)[step, action]
        optimiser.zero_grad()
        loss_on(form, step_on(form, batch, max_tokens=SURE + UNSURE), logp).backward()
        optimiser.step()
    return float(0.9 - logits.detach().softmax(-1)[:SURE, 1].mean())


def _one_seed(seed: int) -> Mapping[str, float]:
    return {"empg": _drop(empg(), seed), "grpo": _drop(grpo(), seed)}


CLAIM = Claim(
    name="empg",
    system="empg",
    states="On a chain of two steps with 90 % on a wrong action and six uniform ones, 40 equal updates of EMPG take "
    "more than 1.5 times as much probability from the confident errors as those of GRPO.",
    unit="ratio of the probability lost",
    one_seed=_one_seed,
    effect=lambda arms: arms["empg"] / arms["grpo"],
    threshold=1.5,
)
