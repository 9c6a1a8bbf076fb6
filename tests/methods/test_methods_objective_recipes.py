"""The plan of minibatches, and what the recipes of this room make of the parts."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import truegain.recipes  # noqa: F401  (registers the systems)
from truegain.core import arithmetic
from truegain.core.batch import Batch
from truegain.core.errors import SettingError
from truegain.core.forms import Train
from truegain.core.system import build
from truegain.methods.objective import minibatches

FACTS = {"progress": 0.0, "step_index": 0, "max_tokens": 5}


@given(st.lists(st.integers(0, 4), min_size=1, max_size=9).filter(any), st.integers(1, 12), st.integers(1, 3))
def test_minibatches_hold_every_token_once_per_epoch_in_parts_of_nearly_one_size(
    lengths: list[int], count: int, epochs: int
) -> None:
    mask = torch.arange(max(lengths))[None, :] < torch.tensor(lengths)[:, None]
    parts = minibatches(mask, count=count, epochs=epochs)
    assert torch.equal(parts.sum(dim=0), mask * epochs)
    assert parts.flatten(1).any(dim=1).all() and len(parts) <= count * epochs
    once = parts[: len(parts) // epochs]
    assert torch.equal(once.repeat(epochs, 1, 1), parts)
    if all(lengths):
        sizes = once.any(dim=2).sum(dim=1)
        assert len(once) == min(count, len(lengths)) and int(sizes.max() - sizes.min()) <= 1


def test_minibatches_below_one_are_refused() -> None:
    for knobs in ({"count": 0}, {"epochs": 0}):
        with pytest.raises(SettingError, match="both are 1 or more"):
            minibatches(torch.ones(2, 1, dtype=torch.bool), **knobs)


def batch_of() -> Batch:
    """Two groups of two rows, lengths 1, 3, 5, 2, one right answer in the first group."""
    mask = torch.arange(5)[None, :] < torch.tensor([1, 3, 5, 2])[:, None]
    old = -torch.rand(4, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    reward = torch.tensor([1.0, 0.0, 0.0, 0.0], dtype=torch.float64)
    return Batch(mask=mask, group=torch.tensor([0, 0, 1, 1]), reward=reward, old_logp=old * mask)


def slope(form: Train, batch: Batch) -> Tensor:
    """The gradient by ``logp`` at the old policy, all rows in one step."""
    advantages, _ = arithmetic.credit_stage(form, batch, FACTS)
    (step,), _ = arithmetic.plan_stage(replace(form, plan=()), batch, advantages, FACTS)
    logp = batch["old_logp"].clone().requires_grad_()
    arithmetic.loss_of(form, step, torch.arange(4), {"logp": logp}, FACTS)[0].backward()
    assert logp.grad is not None
    return logp.grad


# At the old policy every slope is -A * weight. Group 0 has rewards 1, 0: mean 1/2, sample deviation sqrt(1/2), so
# A = +-0.5 centred, +-sqrt(1/2) normalised; group 1 gives 0. Rows have 1 and 3 tokens, the batch 4 rows and 11 tokens.
ROOT = 0.5**0.5


@pytest.mark.parametrize(
    ("name", "right", "wrong"),
    [
        ("reinforce", -1 / 4, 0.0),
        ("dr-grpo", -0.5 / (4 * 5), 0.5 / (4 * 5)),
        ("gspo", -ROOT / 4, ROOT / (4 * 3)),
        ("cispo", -ROOT / 11, ROOT / 11),
        ("sapo", -ROOT / 4, ROOT / (4 * 3)),
    ],
)
def test_a_recipe_weighs_the_tokens_of_the_worked_batch(name: str, right: float, wrong: float) -> None:
    (form,) = build(name)
    assert isinstance(form, Train)
    found = slope(form, batch_of())
    wanted = torch.zeros(4, 5, dtype=torch.float64)
    wanted[0, :1], wanted[1, :3] = right, wrong
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-9)


def test_a_bound_given_to_a_recipe_reaches_its_surrogate() -> None:
    # Row 0 became e^0.5 = 1.65 times as likely, row 1 as much less.
    batch = batch_of()
    moved = batch["old_logp"] + torch.tensor([0.5, -0.5, 0.0, 0.0])[:, None]

    def dead(name: str, **knobs: float) -> list[bool]:
        (form,) = build(name, **knobs)
        assert isinstance(form, Train)
        advantages, _ = arithmetic.credit_stage(form, batch, FACTS)
        (step,), _ = arithmetic.plan_stage(replace(form, plan=()), batch, advantages, FACTS)
        logp = moved.clone().requires_grad_()
        arithmetic.loss_of(form, step, torch.arange(4), {"logp": logp}, FACTS)[0].backward()
        assert logp.grad is not None
        return [bool((logp.grad[row] == 0).all()) for row in range(2)]

    assert dead("dr-grpo", clip=0.2) == [True, True] and dead("dr-grpo", clip=0.7) == [False, False]
    assert dead("gspo", clip_low=0.2, clip_high=0.7) == [False, True]
    assert dead("cispo", cap=1.1) == dead("sapo", tau_pos=3.0) == [False, False]
