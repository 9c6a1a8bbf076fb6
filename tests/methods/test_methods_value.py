"""The critic's clipped loss: the worked example, the oracle, where it has a gradient."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from truegain.methods.objective import value_clip

NUMBERS = st.integers(-20, 20).map(lambda n: n / 8)


def loss_and_gradient(value: float, old: float, target: float, cliprange: float) -> tuple[float, float, bool]:
    def one(x: float) -> Tensor:
        return torch.tensor([[x]], dtype=torch.float64)

    leaf = one(value).requires_grad_()
    loss, logs = value_clip(leaf, one(old), one(target), cliprange=cliprange)
    loss.sum().backward()
    assert leaf.grad is not None
    return float(loss.detach()), float(leaf.grad), bool(logs["vf_clip_ratio"])


@pytest.mark.parametrize(
    ("value", "target", "wanted"),
    [
        # The value before the update is 0 and c = 0.5.
        (0.2, 1.0, (0.32, -0.8, False)),  # within the clip: 0.5 * 0.8^2, slope v - R
        (1.0, 1.0, (0.125, 0.0, True)),  # moved onto the target, beyond the clip: 0.5 * (0.5 - 1)^2, no slope
        (-1.0, 1.0, (2.0, -2.0, False)),  # moved away from it: clipped it would be 1.125, the larger one stays
        (3.0, 1.0, (2.0, 2.0, False)),  # overshot: 0.5 * 2^2, against 0.125
    ],
)
def test_the_worked_cases(value: float, target: float, wanted: tuple[float, float, bool]) -> None:
    assert loss_and_gradient(value, 0.0, target, 0.5) == pytest.approx(wanted, abs=1e-12)


@given(NUMBERS, NUMBERS, NUMBERS, st.sampled_from([0.0, 0.1, 0.5, 10.0]))
def test_the_clip_never_lowers_the_loss_and_equals_the_formula(
    value: float, old: float, target: float, cliprange: float
) -> None:
    loss, _, clipped = loss_and_gradient(value, old, target, cliprange)
    near = min(max(value, old - cliprange), old + cliprange)
    plain = 0.5 * (value - target) ** 2
    assert loss == pytest.approx(max(plain, 0.5 * (near - target) ** 2), abs=1e-12)
    assert loss >= plain
    assert clipped is ((near - target) ** 2 > (value - target) ** 2)


def test_before_the_first_step_nothing_is_clipped_and_the_slope_is_the_error() -> None:
    assert loss_and_gradient(0.25, 0.25, 1.0, 0.5) == pytest.approx((0.28125, -0.75, False))


def test_an_infinite_range_is_the_plain_squared_error() -> None:
    assert loss_and_gradient(7.0, 0.0, 1.0, float("inf")) == pytest.approx((18.0, 6.0, False))
