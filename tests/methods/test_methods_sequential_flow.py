"""Normalised ratios of Gaussian steps: worked example, Monte Carlo, properties; the study that uses them."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from truegain.core.errors import SettingError
from truegain.methods.objective import ratio_norm, step_balance
from truegain.recipes.grpo_guard import grpo_guard


def ratios(x: list[float], old: float, new: float, deviation: float) -> tuple[float, float]:
    sample = torch.tensor([[x]], dtype=torch.float64)
    mean = torch.full_like(sample, new)
    raw, norm = ratio_norm(sample, mean, torch.full_like(sample, old), torch.tensor([deviation], dtype=torch.float64))
    return float(raw), float(norm)


def test_the_ratios_are_those_of_the_worked_example() -> None:
    # s = sqrt(0.04) * 0.7 = 0.14, s^2 = 0.0196. l = mean(x^2 - (x - 0.03)^2) / (2 s^2)
    #   = (0.06 * mean(x) - 0.0009) / 0.0392 = (0.06 * -0.01 - 0.0009) / 0.0392 = -0.038265;
    # b = 0.0009 / 0.0392 = 0.022959.
    # (l + b) * s = -0.015306 * 0.14 = -0.0021429.
    raw, norm = ratios([0.05, -0.1, 0.02], 0.0, 0.03, 0.14)
    assert raw == pytest.approx(-0.038265, abs=1e-6) and math.exp(raw) == pytest.approx(0.9625, abs=1e-4)
    assert norm == pytest.approx(-0.0021429, abs=1e-7) and math.exp(norm) == pytest.approx(0.9979, abs=1e-4)


@given(st.floats(-1, 1), st.floats(-1, 1), st.floats(0.05, 2), st.lists(st.floats(-2, 2), min_size=1, max_size=4))
def test_the_plain_ratio_is_that_of_the_densities_and_both_are_0_at_equal_means(
    old: float, new: float, s: float, x: list[float]
) -> None:
    def density(value: float, mean: float) -> float:
        return -0.5 * ((value - mean) / s) ** 2 - math.log(s)

    raw, norm = ratios(x, old, new, s)
    wanted = sum(density(v, new) - density(v, old) for v in x) / len(x)
    bias = (new - old) ** 2 / (2 * s**2)
    assert raw == pytest.approx(wanted, rel=1e-7, abs=1e-7)
    assert norm / s - bias == pytest.approx(raw, rel=1e-7, abs=1e-7)
    assert ratios(x, old, old, s) == (0.0, 0.0)
    assert ratios([old] * 2, old, new, s)[1] == pytest.approx(0.0, abs=1e-9)


@pytest.mark.parametrize("s", [0.1, 0.5, 2.0])
def test_under_the_old_policy_the_normalised_ratio_has_mean_0_and_the_shift_s_own_deviation(s: float) -> None:
    rng = torch.Generator().manual_seed(0)
    noise = torch.randn(100_000, 1, 1, generator=rng, dtype=torch.float64)
    shift, zero = torch.full_like(noise, 0.3), torch.zeros_like(noise)
    raw, norm = ratio_norm(s * noise, shift, zero, torch.tensor([s], dtype=torch.float64))
    # Its deviation is 0.3 whatever s; the plain one is -b on average. 4 standard errors of 1e5 draws.
    assert abs(norm.mean()) < 4 * 0.3 / math.sqrt(1e5)
    assert float(norm.std()) == pytest.approx(0.3, rel=0.02)
    assert float(raw.mean()) == pytest.approx(-(0.3**2) / (2 * s**2), rel=0.2)


@settings(max_examples=20)
@given(st.floats(0.05, 1), st.floats(0.1, 2))
def test_balanced_steps_of_equal_noise_have_gradients_that_forget_their_width(width: float, sigma: float) -> None:
    # With mu = mu_old + dt * v: d/dv of the normalised ratio is eps * dt, and 1 / dt takes the dt away.
    noise = torch.tensor([[[0.4, -1.1]]], dtype=torch.float64)
    dt = torch.tensor([width], dtype=torch.float64)
    deviation = dt.sqrt() * sigma
    velocity = torch.zeros(1, 1, 2, dtype=torch.float64, requires_grad=True)
    _, norm = ratio_norm(deviation * noise, dt * velocity, torch.zeros_like(noise), deviation)
    (grad,) = torch.autograd.grad((norm * step_balance(dt)).sum(), velocity)
    torch.testing.assert_close(grad, noise / 2)


def test_the_study_learns_its_proxy_and_repeats_itself() -> None:
    first, again = grpo_guard(updates=5).function(), grpo_guard(updates=5).function()
    assert first == again and all(len(first[name]) == 4 for name in ("raw_mean", "norm_std", "raw_clipped"))
    assert first["proxy"] > 0.1 and grpo_guard(guard=False, updates=5).function()["proxy"] > 0.1
    assert (
        grpo_guard(updates=5, beta=5.0, lr=0.5).function()["proxy"] < grpo_guard(updates=5, lr=0.5).function()["proxy"]
    )
    with pytest.raises(SettingError, match="1 or more"):
        grpo_guard(updates=0).function()
