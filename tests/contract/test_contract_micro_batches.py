"""Cutting an optimiser step into micro-batches changes nothing, for every registered recipe; and grpo's own oracle."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from random_columns import VOCABULARY, changed, facts, random_batch
from torch import Tensor

import truegain.recipes  # noqa: F401  (registers the systems)
from truegain.core import arithmetic
from truegain.core.arithmetic import OptimiserStep, loss_of
from truegain.core.batch import Batch
from truegain.core.columns import GRADIENT
from truegain.core.component import spec_of
from truegain.core.forms import Fit, Train, members
from truegain.core.system import SYSTEMS, build

ROWS, TOKENS = 12, 6
# What a stage or the forward pass adds later; the old log-prob stays, so that the ratio is not 1.
LATER = {"keep", "reward", "reward_parts", "advantage", "target"} | GRADIENT


def forms() -> dict[str, Train | Fit]:
    """Every trained form of every recipe as it is built, and grpo with each of its branches."""
    found: dict[str, Train | Fit] = {}
    for name, found_system in SYSTEMS.items():
        if found_system.recipe.__module__.startswith("truegain."):
            for n, form in enumerate(build(name)):
                if isinstance(form, Train) or (isinstance(form, Fit) and not form.pair):
                    found[f"{name}.{n}"] = form
    (penalised,) = build("grpo", beta=0.3)
    assert isinstance(penalised, Train)
    return {**found, "grpo with a penalty": penalised}


FORMS = forms()
every_form = pytest.mark.parametrize("form", FORMS.values(), ids=FORMS.keys())


@dataclass(frozen=True)
class Toy:
    """A model that is its own parameters: logits for each token and a value head."""

    logits: Tensor
    values: Tensor

    @property
    def leaves(self) -> tuple[Tensor, Tensor]:
        return self.logits, self.values

    def current(self, rows: Tensor, tokens: Tensor, width: int) -> dict[str, Tensor]:
        every = self.logits[rows, :width].log_softmax(dim=-1)
        logp = every.gather(-1, tokens[:, :width, None]).squeeze(-1)
        return {"logp": logp, "entropy": -(every.exp() * every).sum(-1), "value": self.values[rows, :width]}


def toy(seed: int) -> Toy:
    rng = torch.Generator().manual_seed(seed)
    logits = torch.randn(ROWS, TOKENS, VOCABULARY, generator=rng)
    return Toy(logits.requires_grad_(), torch.randn(ROWS, TOKENS, generator=rng).requires_grad_())


def rollout_batch(seed: int, model: Toy) -> Batch:
    """The columns that a loop offers. Group 0 is all right, so that a group-relative credit leaves its rows dead."""
    drawn = random_batch(seed, ROWS, TOKENS, dtype=torch.float32, groups=(2, 5))
    with torch.no_grad():
        logp = model.current(torch.arange(ROWS), drawn["tokens"], TOKENS)["logp"]
        noise = torch.randn(2, ROWS, TOKENS, generator=torch.Generator().manual_seed(seed)) * 0.3
    near = {"old_logp": logp + noise[0], "ref_logp": logp + noise[1], "engine_logp": logp}
    right = drawn["correct"].masked_fill(drawn["group"] == 0, 1.0)
    return Batch(**{n: v for n, v in changed(drawn, correct=right, **near).items() if n not in LATER})


def steps_of(form: Train | Fit, batch: Batch) -> tuple[list[OptimiserStep], Tensor]:
    """All stages before the loss, as the loop runs them: the optimiser steps, and which rows selection kept."""
    told, kept = facts(TOKENS), torch.arange(batch.rows)
    if isinstance(form, Train):
        batch, _ = arithmetic.reward_stage(form, batch, told)
        batch, kept, _ = arithmetic.select_stage(form, batch, told)
    advantages, _ = arithmetic.credit_stage(form, batch, told)
    steps, _ = arithmetic.plan_stage(form, batch, advantages, told)
    return steps, kept


def loss_and_gradient(
    form: Train | Fit, model: Toy, steps: Sequence[OptimiserStep], kept: Tensor, cut: Any
) -> tuple[Tensor, list[Tensor]]:
    """Sum of the losses of all steps and roles, and the gradients; ``cut(step)`` gives the rows of each micro-batch."""
    for leaf in model.leaves:
        leaf.grad = None
    total = torch.zeros(())
    for step in steps:
        for index in cut(step):
            width = max(1, int((step.batch["mask"][index].any(dim=0) * torch.arange(1, TOKENS + 1)).max()))
            current = model.current(kept[step.rows[index]], step.batch["tokens"][index], width)
            for role in sorted({term.role for term in form.terms}):
                loss, _ = loss_of(form, step, index, current, facts(TOKENS), role)
                if loss.requires_grad:
                    loss.backward(retain_graph=True)
                total = total + loss.detach()
    return total, [torch.zeros_like(leaf) if leaf.grad is None else leaf.grad.clone() for leaf in model.leaves]


def whole(step: OptimiserStep) -> list[Tensor]:
    return [torch.arange(step.batch.rows)]


def by_one(step: OptimiserStep) -> list[Tensor]:
    return [torch.tensor([i]) for i in range(step.batch.rows)]


def unevenly(step: OptimiserStep) -> list[Tensor]:
    order = torch.randperm(step.batch.rows, generator=torch.Generator().manual_seed(step.batch.rows))
    return [part for part in (order[:1], order[1:6], order[6:8], order[8:]) if part.numel()]


def by_group(step: OptimiserStep) -> list[Tensor]:
    return [(step.batch["group"] == g).nonzero().flatten() for g in step.batch["group"].unique()]


def only_live(step: OptimiserStep) -> list[Tensor]:
    # A fit of a reward model has no term of the policy.
    return [step.live.get("policy", next(iter(step.live.values()))).nonzero().flatten()]


def legal_cuts(form: Train | Fit) -> list[Any]:
    """A surrogate that names the group sees groups whole; any other cut is legal for the rest."""
    spread = any("group" in spec_of(m).inputs for term in form.terms for m in members(term.surrogate))
    return [by_group] if spread else [by_one, unevenly, by_group]


def assert_equal(found: tuple[Tensor, list[Tensor]], wanted: tuple[Tensor, list[Tensor]]) -> None:
    torch.testing.assert_close(found[0], wanted[0], rtol=1e-6, atol=1e-6, check_dtype=False)
    for one, other in zip(found[1], wanted[1], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-6)


@every_form
@pytest.mark.parametrize("seed", range(3))
def test_the_size_of_a_micro_batch_changes_neither_loss_nor_gradient(form: Train | Fit, seed: int) -> None:
    for drawn in range(seed, seed + 30, 3):  # rewards may happen to cancel: then the next draw is taken
        model = toy(drawn)
        steps, kept = steps_of(form, rollout_batch(drawn, model))
        wanted = loss_and_gradient(form, model, steps, kept, whole)
        if any(grad.abs().max() > 1e-4 for grad in wanted[1]):
            break
    assert any(grad.abs().max() > 1e-4 for grad in wanted[1]), "nothing is trained, so nothing is compared"
    for cut in legal_cuts(form):
        assert_equal(loss_and_gradient(form, model, steps, kept, cut), wanted)


@every_form
@pytest.mark.parametrize("seed", range(3))
def test_rows_without_gradient_may_be_left_out(form: Train | Fit, seed: int) -> None:
    model = toy(seed)
    steps, kept = steps_of(form, rollout_batch(seed, model))
    wanted = loss_and_gradient(form, model, steps, kept, whole)
    loss, gradient = loss_and_gradient(form, model, steps, kept, only_live)
    assert_equal((loss, gradient), wanted)


@pytest.mark.parametrize(("beta", "dead"), [(0.0, True), (0.3, False)])
def test_rows_of_a_group_all_right_are_dead_unless_a_penalty_keeps_them(beta: float, dead: bool) -> None:
    (form,) = build("grpo", beta=beta)
    assert isinstance(form, Train)
    batch = rollout_batch(0, toy(0))
    (step,), _ = steps_of(form, batch)
    assert bool((~step.live["policy"][batch["group"] == 0]).all()) is dead
    assert step.live["policy"].any()


def grpo_oracle(
    batch: Mapping[str, Tensor], logits: Tensor, beta: float, clip: float, eps: float = 1e-6
) -> tuple[float, Tensor]:
    """Shao et al. 2024, equations 3 and 4, token by token in Python floats, with the gradient worked out by hand.

    L = -1/B sum_i 1/n_i sum_t [ min(rho A_i, clip(rho, 1-c, 1+c) A_i) - beta (exp(-d) + d - 1) ],
    rho = exp(logp - old), d = logp - ref, A_i = (r_i - mean_g) / (std_g + eps), std of the sample (divisor G - 1).
    dL/dlogp = -1/(B n_i) [ rho A_i if the unclipped branch is the smaller one else 0, - beta (1 - exp(-d)) ];
    dlogp/dlogits_v = [v = token] - p_v.
    """
    rows, tokens = batch["mask"].shape
    rewards, groups = batch["correct"].tolist(), batch["group"].tolist()
    loss, gradient = 0.0, torch.zeros(rows, tokens, VOCABULARY, dtype=torch.float64)
    with_tokens = sum(any(row) for row in batch["mask"].tolist())
    for i in range(rows):
        mates = [rewards[j] for j in range(rows) if groups[j] == groups[i]]
        mean = sum(mates) / len(mates)
        spread = math.sqrt(sum((r - mean) ** 2 for r in mates) / max(len(mates) - 1, 1))
        advantage = (rewards[i] - mean) / (spread + eps)
        length = int(batch["mask"][i].sum())
        for t in range(tokens):
            if not batch["mask"][i, t]:
                continue
            row = [math.exp(x) for x in logits[i, t].tolist()]
            chosen = int(batch["tokens"][i, t])
            p = [x / sum(row) for x in row]
            logp = math.log(p[chosen])
            rho, d = math.exp(logp - float(batch["old_logp"][i, t])), logp - float(batch["ref_logp"][i, t])
            free, bound = rho * advantage, min(max(rho, 1 - clip), 1 + clip) * advantage
            share = 1.0 / (with_tokens * length)
            loss -= share * (min(free, bound) - beta * (math.exp(-d) + d - 1))
            slope = -share * ((free if free <= bound else 0.0) - beta * (1 - math.exp(-d)))
            for v in range(VOCABULARY):
                gradient[i, t, v] = slope * ((v == chosen) - p[v])
    return loss, gradient


@pytest.mark.parametrize("beta", [0.0, 0.3])
@pytest.mark.parametrize("seed", range(3))
def test_grpo_equals_its_formula(seed: int, beta: float) -> None:
    (form,) = build("grpo", beta=beta, clip=0.2)
    assert isinstance(form, Train)
    model = toy(seed)
    batch = rollout_batch(seed, model)
    steps, kept = steps_of(form, batch)
    loss, gradient = loss_and_gradient(form, model, steps, kept, unevenly)
    wanted_loss, wanted_gradient = grpo_oracle(batch, model.logits, beta, clip=0.2)
    assert abs(float(loss) - wanted_loss) < 1e-6
    torch.testing.assert_close(gradient[0].double(), wanted_gradient, rtol=0, atol=1e-6)
    assert gradient[0].abs().max() > 1e-2
