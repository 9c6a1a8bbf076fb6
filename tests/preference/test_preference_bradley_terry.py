"""Bradley-Terry: golden values, the formula in plain float64, and what it promises."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from truegain.core.component import knobs_of
from truegain.core.forms import Fit, members
from truegain.core.system import build
from truegain.methods.preference import bradley_terry

W, L = torch.tensor([1.0, 0.2]), torch.tensor([0.0, 0.5])
REWARDS = st.lists(st.tuples(st.floats(-20, 20), st.floats(-20, 20)), min_size=1, max_size=6)


def test_the_mean_loss_and_its_gradient_are_as_derived_by_hand() -> None:
    # d = (1, -0.3): ln(1 + e^-1) = 0.31326, ln(1 + e^0.3) = 0.85436; mean 0.58381
    assert bradley_terry(W, L).mean() == pytest.approx(0.58381, abs=1e-5)
    # + 0.01 * ((1 + 0)^2 + (0.2 + 0.5)^2) / 2 = 0.01 * (1 + 0.49) / 2 = 0.00745
    assert bradley_terry(W, L, centring=0.01).mean() == pytest.approx(0.59126, abs=1e-5)
    # dL/dr_w = -(1 - sigmoid(d)) / 2 = -0.26894 / 2, -0.57444 / 2
    chosen = W.clone().requires_grad_()
    bradley_terry(chosen, L).mean().backward()
    assert chosen.grad is not None
    assert chosen.grad.tolist() == pytest.approx([-0.13447, -0.28722], abs=1e-5)


def test_a_margin_moves_the_win_and_smoothing_takes_a_share_of_the_labels_as_flipped() -> None:
    # d = 1 - 0.5 = 0.5: ln(1 + e^-0.5) = 0.47408
    assert bradley_terry(W[:1], L[:1], margin=0.5)[0] == pytest.approx(0.47408, abs=1e-5)
    # 0.75 * 0.31326 + 0.25 * ln(1 + e^1) = 0.23495 + 0.25 * 1.31326 = 0.56326
    assert bradley_terry(W[:1], L[:1], smoothing=0.25)[0] == pytest.approx(0.56326, abs=1e-5)


@given(rows=REWARDS, margin=st.floats(0, 2), centring=st.floats(0, 1), smoothing=st.floats(0, 0.49))
def test_it_is_the_formula_in_plain_float64(
    rows: list[tuple[float, float]], margin: float, centring: float, smoothing: float
) -> None:
    chosen, rejected = torch.tensor(rows, dtype=torch.float64).T
    found = bradley_terry(chosen, rejected, margin=margin, centring=centring, smoothing=smoothing)
    for value, (w, r) in zip(found.tolist(), rows, strict=True):
        p = 1 / (1 + math.exp(-(w - r - margin)))
        q = 1 / (1 + math.exp(w - r - margin))
        expected = -(1 - smoothing) * math.log(p) - smoothing * math.log(q) + centring * (w + r) ** 2
        assert value == pytest.approx(expected, rel=1e-9, abs=1e-12)


@given(rows=REWARDS, by=st.floats(-5, 5))
def test_only_the_difference_counts_without_centring(rows: list[tuple[float, float]], by: float) -> None:
    chosen, rejected = torch.tensor(rows, dtype=torch.float64).T
    assert torch.allclose(bradley_terry(chosen + by, rejected + by), bradley_terry(chosen, rejected))


@given(rows=REWARDS)
def test_swapped_labels_turn_the_gradient_with_respect_to_the_difference_round(rows: list[tuple[float, float]]) -> None:
    chosen, rejected = torch.tensor(rows, dtype=torch.float64).T
    ahead = (chosen - rejected).requires_grad_()
    zero = torch.zeros_like(ahead)
    (up,) = torch.autograd.grad(bradley_terry(ahead, zero).sum(), ahead)
    (down,) = torch.autograd.grad(bradley_terry(zero, ahead).sum(), ahead)
    # -(1 - s) and s: they differ by 1, and are opposite where the rewards are equal
    assert torch.allclose(down - up, torch.ones_like(up))
    (at_zero,) = torch.autograd.grad(bradley_terry(zero.requires_grad_(), zero.detach()).sum(), zero)
    assert torch.allclose(at_zero, torch.full_like(zero, -0.5))


def test_equal_rewards_cost_log_2_and_huge_ones_stay_finite() -> None:
    assert bradley_terry(torch.zeros(1), torch.zeros(1))[0] == pytest.approx(math.log(2))
    assert bradley_terry(torch.tensor([-1e4]), torch.tensor([1e4]))[0] == pytest.approx(2e4)


def test_a_reward_that_is_nan_spoils_its_own_pair_only_and_no_pairs_give_no_losses() -> None:
    found = bradley_terry(torch.tensor([torch.nan, 1.0]), torch.zeros(2))
    assert found.isnan().tolist() == [True, False]
    assert bradley_terry(torch.zeros(0), torch.zeros(0)).shape == (0,)


@pytest.mark.parametrize("knobs", [{"smoothing": 0.5}, {"smoothing": -0.1}, {"centring": -1.0}])
def test_knobs_out_of_bounds_are_refused(knobs: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="smoothing"):
        bradley_terry(W, L, **knobs)


def test_the_recipe_fits_a_head_with_the_knobs_it_is_given() -> None:
    (form,) = build("bradley-terry-rm", margin=0.5)
    assert isinstance(form, Fit)
    (member,) = members(form.pair)
    assert knobs_of(member) == {"margin": 0.5, "centring": 0.01, "smoothing": 0.0}
    assert [role.fills for role in form.roles.values()] == ["model_reward"]
