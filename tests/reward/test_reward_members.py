"""Aggregates of reward models: golden values, the formulas in plain Python, and what they promise."""

from __future__ import annotations

import statistics
from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import truegain.recipes  # noqa: F401  (registers the systems)
from truegain.core import arithmetic
from truegain.core.batch import Batch
from truegain.core.component import call
from truegain.core.errors import SettingError
from truegain.core.forms import Train
from truegain.core.system import build
from truegain.methods.reward import mean_member, median_member, uncertainty_weighted, worst_member

# Three members (columns) judge three completions (rows): the catalog's example.
SCORES = torch.tensor([[1.0, 1.2, 0.8], [2.0, 0.5, 3.5], [0.0, 0.1, -0.1]])
ALL = [mean_member, worst_member, partial(uncertainty_weighted, penalty=0.5), median_member]
TABLES = st.integers(1, 5).flatmap(
    lambda m: st.lists(st.lists(st.floats(-50, 50), min_size=m, max_size=m), min_size=1, max_size=6)
)


def value_of(member, scores):
    return call(member, {"model_reward": scores}, {})[0]


def test_the_aggregates_are_as_derived_by_hand():
    assert value_of(mean_member, SCORES).tolist() == pytest.approx([1.0, 2.0, 0.0])
    assert value_of(worst_member, SCORES).tolist() == pytest.approx([0.8, 0.5, -0.1])
    assert value_of(median_member, SCORES).tolist() == pytest.approx([1.0, 2.0, 0.0])
    # Variances around the means 1, 2, 0: 0.08 / 3, 4.5 / 3, 0.02 / 3; less half of each
    assert value_of(ALL[2], SCORES).tolist() == pytest.approx([0.98667, 1.25, -0.00333], abs=1e-5)
    # Over M - 1 = 2: 0.04, 2.25, 0.01
    wide = partial(uncertainty_weighted, penalty=0.5, correction=1)
    assert value_of(wide, SCORES).tolist() == pytest.approx([0.98, 0.875, -0.005], abs=1e-5)
    # Of best-of-3 the mean takes the completion that the members quarrel about, the worst case does not
    assert [int(value_of(m, SCORES).argmax()) for m in ALL] == [1, 0, 1, 1]


@given(table=TABLES, penalty=st.floats(0, 2))
def test_they_are_the_formulas_in_plain_float64(table, penalty):
    scores = torch.tensor(table, dtype=torch.float64)
    for member, formula in (
        (mean_member, statistics.fmean),
        (worst_member, min),
        (median_member, statistics.median),
        (
            partial(uncertainty_weighted, penalty=penalty),
            lambda r: statistics.fmean(r) - penalty * statistics.pvariance(r),
        ),
    ):
        expected = [formula(row) for row in table]
        assert value_of(member, scores).tolist() == pytest.approx(expected, rel=1e-9, abs=1e-9)


@given(table=TABLES, penalty=st.floats(0, 2))
def test_the_conservative_ones_never_exceed_the_mean_and_the_order_of_the_members_is_inert(table, penalty):
    scores = torch.tensor(table, dtype=torch.float64)
    mean = value_of(mean_member, scores) + 1e-9
    assert (value_of(worst_member, scores) <= mean).all()
    assert (value_of(partial(uncertainty_weighted, penalty=penalty), scores) <= mean).all()
    for member in ALL:
        assert torch.allclose(value_of(member, scores.flip(1)), value_of(member, scores))


@pytest.mark.parametrize("member", ALL)
def test_one_member_is_its_own_ensemble_and_equal_members_agree(member):
    one = torch.tensor([[0.3], [-2.0]])
    assert torch.allclose(value_of(member, one), one[:, 0])
    assert torch.allclose(value_of(member, one.expand(2, 4)), one[:, 0])
    assert value_of(member, torch.zeros(0, 3)).shape == (0,)


def test_a_constant_on_one_member_moves_the_mean_and_can_leave_the_worst_case():
    shifted = SCORES + torch.tensor([0.0, 0.0, 10.0])
    assert not torch.allclose(mean_member(shifted), mean_member(SCORES))
    assert worst_member(shifted)[1] == worst_member(SCORES)[1]
    assert median_member(shifted)[1] == median_member(SCORES)[1]


@pytest.mark.parametrize("member", ALL)
def test_a_member_that_says_nan_makes_that_row_nan_and_no_other(member):
    scores = SCORES.clone()
    scores[1, 2] = torch.nan
    assert value_of(member, scores).isnan().tolist() == [False, True, False]


def test_a_negative_penalty_and_an_unknown_aggregate_are_refused():
    with pytest.raises(SettingError, match="penalty -1"):
        uncertainty_weighted(SCORES, penalty=-1)
    with pytest.raises(SettingError, match="worst_member"):
        build("rm-ensemble-conservative", aggregate="worst_membr")


def test_the_penalty_on_variance_and_the_kl_are_rewards_of_the_recipe():
    (form,) = build("rm-ensemble-conservative", penalty=0.5, beta=0.1)
    assert isinstance(form, Train)
    logp = torch.tensor([[-1.0]] * 3)
    batch = Batch(model_reward=SCORES, mask=torch.ones(3, 1, dtype=torch.bool), old_logp=logp, ref_logp=logp - 0.2)
    shaped, logs = arithmetic.reward_stage(form, batch, {})
    # 0.1 * 0.2 nats off each
    assert shaped["reward"].tolist() == pytest.approx([0.96667, 1.23, -0.02333], abs=1e-5)
    assert "truegain/member_std" in logs
    (bare,) = build("rm-ensemble-conservative", beta=0.0)
    assert isinstance(bare, Train) and list(bare.roles) == ["reward_model"]
