"""SimPO on its own numbers: goldens, an oracle, and what it must not depend on."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from truegain.methods.preference import simpo

ROWS = st.lists(st.floats(-5.0, -0.01), min_size=1, max_size=6)


def loss(chosen: list[float], rejected: list[float], **knobs: float) -> float:
    def side(values: list[float]) -> tuple[torch.Tensor, torch.Tensor]:
        # Rubbish behind the last token, as padding may hold.
        padded = torch.tensor([[*values, float("nan")]], dtype=torch.float64)
        return padded, padded.isfinite()

    found, _ = simpo(*side(chosen), *side(rejected), **knobs)
    return float(found)


def test_the_worked_example_of_the_catalog() -> None:
    # 2.5 * (-.5 + .8 - .55) = -.625; log(1 + e^.625) = 1.0537
    assert loss([-0.4, -0.6], [-0.8]) == pytest.approx(1.0537, abs=1e-4)


@given(ROWS, ROWS, st.floats(0.1, 5.0), st.floats(0.0, 1.0), st.floats(0.0, 0.4))
def test_the_loss_is_the_formula(a: list[float], b: list[float], beta: float, ratio: float, smooth: float) -> None:
    d = beta * (sum(a) / len(a) - sum(b) / len(b) - ratio)
    wanted = (1 - smooth) * math.log1p(math.exp(-d)) + smooth * math.log1p(math.exp(d))
    assert loss(a, b, beta=beta, ratio=ratio, smoothing=smooth) == pytest.approx(wanted, abs=1e-9)


@given(ROWS, ROWS, st.integers(2, 4))
def test_saying_the_same_again_changes_nothing(a: list[float], b: list[float], times: int) -> None:
    assert loss(a * times, b) == pytest.approx(loss(a, b)) == pytest.approx(loss(a, b * times))


def test_an_empty_completion_has_the_mean_0_and_gradients_stay_finite() -> None:
    nothing = torch.zeros(1, 0, requires_grad=True)
    said = torch.tensor([[-1.0, -2.0]], requires_grad=True)
    found, _ = simpo(said, torch.ones(1, 2, dtype=torch.bool), nothing, torch.zeros(1, 0, dtype=torch.bool), ratio=0.0)
    assert float(found.detach()) == pytest.approx(math.log1p(math.exp(2.5 * 1.5)), abs=1e-5)
    found.sum().backward()
    assert said.grad is not None and said.grad.isfinite().all() and (said.grad < 0).all()


@pytest.mark.parametrize("wrong", [{"beta": 0.0}, {"ratio": -0.1}, {"smoothing": 0.5}])
def test_knobs_out_of_bounds_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="simpo"):
        loss([-1.0], [-1.0], **wrong)
