"""What the recipes of leave-one-out and batch-whitened credit come to: their gradients against the formulas."""

from __future__ import annotations

import statistics
from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import Tensor

import truegain.recipes  # noqa: F401  (registers the systems)
from truegain.core.arithmetic import credit_stage, loss_of, plan_stage, reward_stage
from truegain.core.batch import Batch
from truegain.core.forms import Train
from truegain.core.system import build
from truegain.methods import objective

LENGTHS, CORRECT, GROUP = (4, 2, 3, 1, 4, 2), (1.0, 0.0, 0.0, 1.0, 1.0, 0.0), (0, 0, 0, 1, 1, 1)


def train_form(name: str, **knobs: float) -> Train:
    (form,) = build(name, **knobs)
    assert isinstance(form, Train)
    return form


def batch() -> Batch:
    rng = torch.Generator().manual_seed(0)
    mask = torch.arange(4)[None, :] < torch.tensor(LENGTHS)[:, None]
    mask[0, 1] = False
    old = -torch.rand(6, 4, generator=rng, dtype=torch.float64)
    ref = old + 0.3 * torch.randn(6, 4, generator=rng, dtype=torch.float64)
    correct = torch.tensor(CORRECT, dtype=torch.float64)
    return Batch(mask=mask, group=torch.tensor(GROUP), correct=correct, old_logp=old, ref_logp=ref)


def gradient_of(form: Train) -> Tensor:
    """By the log-probs, at the first step of a batch."""
    rows, _ = reward_stage(form, batch(), {})
    advantages, _ = credit_stage(form, rows, {})
    (step,), _ = plan_stage(form, rows, advantages, {})
    logp = rows["old_logp"].clone().requires_grad_()
    loss_of(form, step, torch.arange(6), {"logp": logp}, {})[0].backward()
    assert logp.grad is not None
    return logp.grad


@pytest.mark.parametrize("beta", [0.0, 0.2])
def test_rloo_is_reinforce_with_the_siblings_mean_of_penalised_rewards(beta: float) -> None:
    rows = batch()
    mask, ratio = rows["mask"], (rows["old_logp"] - rows["ref_logp"]) * rows["mask"]
    rewards = [c - beta * float(k) for c, k in zip(CORRECT, ratio.sum(1), strict=True)]
    wanted = torch.zeros(6, 4, dtype=torch.float64)
    for i in range(6):
        siblings = [rewards[j] for j in range(6) if GROUP[j] == GROUP[i] and j != i]
        wanted[i] = -(rewards[i] - statistics.fmean(siblings)) / 6 * mask[i]
    torch.testing.assert_close(gradient_of(train_form("rloo", beta=beta)), wanted, rtol=0, atol=1e-6)


def test_on_the_first_step_rloo_with_one_ratio_per_completion_has_the_same_gradient() -> None:
    form = train_form("rloo")
    (term,) = form.terms
    whole = replace(term, surrogate=partial(objective.sequence_clip, ratio="sum"), weight=objective.sequence_mean)
    torch.testing.assert_close(gradient_of(form), gradient_of(replace(form, terms=(whole,))), rtol=0, atol=1e-6)


@pytest.mark.parametrize(("beta", "gamma"), [(0.0, 1.0), (0.2, 1.0), (0.2, 0.9)])
def test_reinforce_pp_whitens_the_penalised_returns_of_every_token(beta: float, gamma: float) -> None:
    rows = batch()
    mask, ratio = rows["mask"].tolist(), (rows["old_logp"] - rows["ref_logp"]).tolist()
    returns: dict[tuple[int, int], float] = {}
    for i in range(6):
        running, due = 0.0, CORRECT[i]
        for t in reversed([t for t in range(4) if mask[i][t]]):
            running, due = due - beta * ratio[i][t] + gamma * running, 0.0
            returns[i, t] = running
    middle, deviation = statistics.fmean(returns.values()), statistics.stdev(returns.values())
    wanted = torch.zeros(6, 4, dtype=torch.float64)
    for (i, t), value in returns.items():
        wanted[i, t] = -(value - middle) / deviation / len(returns)
    found = gradient_of(train_form("reinforce-pp", beta=beta, gamma=gamma))
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-6)


@pytest.mark.parametrize("beta", [0.0, 0.2])
def test_reinforce_pp_baseline_whitens_the_centred_reward_and_penalises_in_the_loss(beta: float) -> None:
    rows = batch()
    mask, ratio = rows["mask"].tolist(), (rows["old_logp"] - rows["ref_logp"]).tolist()
    centred = [
        CORRECT[i] - statistics.fmean([c for c, g in zip(CORRECT, GROUP, strict=True) if g == GROUP[i]])
        for i in range(6)
    ]
    tokens = [(i, t) for i in range(6) for t in range(4) if mask[i][t]]
    values = [centred[i] for i, _ in tokens]
    wanted = torch.zeros(6, 4, dtype=torch.float64)
    for i, t in tokens:
        advantage = (centred[i] - statistics.fmean(values)) / statistics.stdev(values)
        # The slope of the k2 penalty d^2 / 2 is d.
        wanted[i, t] = (-advantage + beta * ratio[i][t]) / len(tokens)
    found = gradient_of(train_form("reinforce-pp-baseline", beta=beta))
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", ["rloo", "reinforce-pp", "reinforce-pp-baseline"])
def test_a_reference_is_loaded_only_for_a_penalty(name: str) -> None:
    assert not train_form(name, beta=0.0).roles
    assert [role.fills for role in train_form(name, beta=0.1).roles.values()] == ["ref_logp"]
