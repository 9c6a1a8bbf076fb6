"""A reward from those of the steps: golden values, a slow oracle, edges, and a recipe that trains on it."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from jaxtyping import TypeCheckError

from truegain.core import arithmetic
from truegain.core.batch import Batch
from truegain.core.errors import SettingError, WiringError
from truegain.methods.reward import aggregate_steps
from truegain.recipes.grpo import grpo

WAYS = ("min", "max", "prod", "geometric_mean", "mean", "last", "mean_logit", "mean_odds")
chances = st.lists(st.floats(0.01, 0.99), min_size=1, max_size=5)


def oracle(p: list[float], how: str) -> float:
    if how in ("min", "max"):
        return (min if how == "min" else max)(p)
    if how == "last":
        return p[-1]
    if how in ("prod", "geometric_mean"):
        product = math.prod(p)
        return product if how == "prod" else product ** (1 / len(p))
    if how == "mean":
        return sum(p) / len(p)
    if how == "mean_odds":
        return max(0.0, sum(x / (1 - x) for x in p) / len(p))
    mean = sum(math.log(x / (1 - x)) for x in p) / len(p)
    return 1 / (1 + math.exp(-mean))


def joined(p: list[float], how: str, **knobs: float) -> float:
    step = torch.arange(len(p)).repeat_interleave(2)[None]
    given_rewards = torch.tensor([[*p, math.nan]], dtype=torch.float64)  # NaN past the last one, as the column has it
    return float(aggregate_steps(given_rewards, step, step >= 0, how=how, **knobs))  # type: ignore[arg-type]


def test_the_ways_are_as_derived_by_hand():
    p = [0.5, 0.8]
    # prod 0.4; sqrt(0.4); logits 0 and log 4, mean log 2: 2/3; odds 1 and 4, mean 2.5
    wanted = [0.5, 0.8, 0.4, math.sqrt(0.4), 0.65, 0.8, 2 / 3, 2.5]
    assert [joined(p, how) for how in WAYS] == pytest.approx(wanted)


@pytest.mark.parametrize("how", WAYS)
@given(p=chances)
def test_every_way_is_its_formula(how, p):
    assert joined(p, how) == pytest.approx(oracle(p, how), rel=1e-9)


@given(chances)
def test_the_means_lie_between_the_least_and_the_largest(p):
    for how in ("geometric_mean", "mean", "last", "mean_logit"):
        assert min(p) - 1e-9 <= joined(p, how) <= max(p) + 1e-9
    assert joined(p, "prod") <= joined(p, "min") + 1e-9


def test_probabilities_of_0_and_1_are_clipped_where_they_would_give_no_number():
    assert all(math.isfinite(joined([0.0, 1.0], how)) for how in WAYS)
    assert joined([0.0, 1.0], "mean_logit") == pytest.approx(0.5)
    assert joined([0.0, 1.0], "geometric_mean") == joined([-0.5, 1.0], "geometric_mean") == 0.0
    assert joined([1.0], "mean_odds", eps=0.01) == pytest.approx(100.0)


@pytest.mark.parametrize("how", WAYS)
def test_rows_without_steps_get_0_and_steps_of_tools_are_not_read(how):
    step = torch.tensor([[0, 1, 2, -1], [-1, -1, -1, -1], [0, 1, 1, 1]])
    mask = torch.tensor([[True, False, True, False], [False] * 4, [False] * 4])
    found = aggregate_steps(torch.tensor([[0.25, 9.0, 0.25], [9.0] * 3, [9.0] * 3]), step, mask, how=how)
    assert found[1:].tolist() == [0.0, 0.0]
    assert float(found[0]) == pytest.approx(oracle([0.25, 0.25], how), rel=1e-6)
    assert aggregate_steps(torch.zeros(3, 0), step, mask, how=how).tolist() == [0.0] * 3


@pytest.mark.parametrize("how", WAYS)
def test_a_nan_at_a_step_that_is_there_stays_to_be_refused(how):
    step = torch.tensor([[0, 1]])
    found = aggregate_steps(torch.tensor([[0.5, math.nan]]), step, step >= 0, how=how)
    assert bool(torch.isnan(found).all())


def test_an_unknown_way_is_refused():
    with pytest.raises((SettingError, TypeCheckError), match="median"):
        joined([0.5], "median")


def test_it_is_a_reward_of_a_recipe_and_needs_a_judge_of_steps():
    form = replace(grpo(), reward=partial(aggregate_steps, how="prod", scale=2.0))
    step = torch.tensor([[0, 0, 1], [0, 1, 2]])
    columns = {"mask": step >= 0, "group": torch.zeros(2, dtype=torch.long), "step": step}
    given_rewards = torch.tensor([[0.5, 0.5, math.nan], [1.0, 0.5, 0.5]])
    batch, _ = arithmetic.reward_stage(form, Batch(**columns, step_reward=given_rewards), {})
    assert batch["reward"].tolist() == [0.5, 0.5]
    with pytest.raises(WiringError, match=r"aggregate_steps needs column 'step_reward', which comes from"):
        arithmetic.reward_stage(form, Batch(**columns), {})
