"""Soft minimum, Huber critic, and the gated penalty with its moving threshold: worked example, oracle, properties."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from truegain.core.errors import SettingError
from truegain.core.settings import loop_with
from truegain.methods.objective import entropy_gated_kl, soft_min, value_huber
from truegain.policy.policy import Policy
from truegain.recipes.safe import safe
from truegain.tasks import make
from truegain.train.folder import RunFolder
from truegain.train.online import Setup, train

BETA = "kl_to_reference.beta"
VALUES = st.lists(st.floats(-5, 5), min_size=1, max_size=4)


def soft(values: list[float], scale: float = 0.3) -> float:
    return float(soft_min(torch.tensor(values, dtype=torch.float64), scale=scale))


def test_the_soft_minimum_is_that_of_the_worked_example() -> None:
    # exp(-1 / 0.3) = 0.035674, exp(-0.4 / 0.3) = 0.263597: -0.3 * ln(0.299271 / 2) = -0.3 * -1.899552 = 0.569866.
    assert soft([1.0, 0.4]) == pytest.approx(0.569866, abs=1e-6)


@given(VALUES, st.floats(0.05, 5))
def test_the_soft_minimum_lies_between_the_minimum_and_the_mean_and_nears_them_at_the_ends(
    values: list[float], scale: float
) -> None:
    low, mean = min(values), math.fsum(values) / len(values)
    assert low - 1e-9 <= soft(values, scale) <= mean + 1e-9
    assert soft(values, 1e-4) == pytest.approx(low, abs=1e-3)
    assert soft(values, 1e6) == pytest.approx(mean, abs=1e-3)


def test_a_scale_of_0_is_refused_and_a_nan_critic_is_seen() -> None:
    assert math.isnan(soft([1.0, math.nan]))
    with pytest.raises(SettingError, match="scale=0"):
        soft([1.0], 0.0)


@given(st.floats(-3, 3), st.floats(-3, 3), st.floats(-3, 3))
def test_the_critic_s_loss_is_the_mean_of_two_huber_losses(value: float, old: float, target: float) -> None:
    def huber(x: float) -> float:
        return x * x / 2 if abs(x) <= 0.5 else 0.5 * (abs(x) - 0.25)

    near = min(max(value, old - 0.2), old + 0.2)
    found = value_huber(*(torch.tensor([[x]], dtype=torch.float64) for x in (value, old, target)))
    assert float(found) == pytest.approx((huber(value - target) + huber(near - target)) / 2, abs=1e-9)


# The penalty


@pytest.mark.parametrize(("entropy", "penalty"), [(2.0, 0.0038095), (0.2, 0.0266667)])
def test_the_penalty_is_that_of_the_worked_example(entropy: float, penalty: float) -> None:
    # 0.1 * (0.5 - 0.3)^2 = 0.004, times 2 / 2.1 and 2 / 0.3.
    assert entropy_gated_kl(form="penalty").weight(0.5, 0.3, entropy) == pytest.approx(penalty, abs=1e-6)


@given(st.floats(0, 3), st.floats(0.1, 0.6), st.floats(0, 5), st.floats(0, 5))
def test_the_penalty_is_off_below_its_threshold_and_never_falls_as_entropy_does(
    kl: float, threshold: float, one: float, other: float
) -> None:
    for form in ("gradient", "penalty"):
        control = entropy_gated_kl(form=form)
        assert kl > threshold or control.weight(kl, threshold, one) == 0.0
        assert control.weight(kl, threshold, min(one, other)) >= control.weight(kl, threshold, max(one, other))
        assert control.weight(threshold + 1e-6, threshold, one) < 1e-5
    assert entropy_gated_kl(form="log_only").weight(kl, threshold, one) == 0.0


@given(st.floats(0.3, 2), st.floats(0.1, 5))
def test_the_gradient_form_is_the_derivative_of_the_penalty(kl: float, entropy: float) -> None:
    value, slope = entropy_gated_kl(form="penalty"), entropy_gated_kl(form="gradient")
    numeric = (value.weight(kl + 1e-5, 0.25, entropy) - value.weight(kl - 1e-5, 0.25, entropy)) / 2e-5
    assert slope.weight(kl, 0.25, entropy) == pytest.approx(numeric, rel=1e-4, abs=1e-8)


def followed(kls: list[float], rewards: list[float], **knobs: Any) -> tuple[list[dict[str, float]], dict[str, Any]]:
    control = entropy_gated_kl(form="penalty", **knobs)
    state, outs = control.init(), []
    drawn = {"engine_logp": torch.tensor([[-1.0, -9.0]], dtype=torch.float64), "mask": torch.tensor([[True, False]])}
    for kl, reward in zip(kls, rewards, strict=True):
        state, out = control.update(state, line={"kl": kl, "reward": reward}, **drawn)
        outs.append(out)
    return outs, state


def oracle(kls: list[float], rewards: list[float]) -> list[float]:
    """The penalties, written out again from the formula, with entropy 1."""
    out: list[float] = []
    short, ema, integral, before = kls[0], rewards[0], 0.0, 0.0
    for n, (kl, reward) in enumerate(zip(kls, rewards, strict=True)):
        pid = 0.0
        if n:
            short = 0.9 * short + 0.1 * kl
            velocity, ema = 0.05 * (reward - ema), ema + 0.05 * (reward - ema)
            error = velocity - 0.001
            integral = max(-1.0, min(1.0, integral + error))
            pid, before = 0.3 * error + 0.01 * integral + 0.05 * (error - before), error
        last, earlier = rewards[max(0, n - 49) : n + 1], rewards[max(0, n - 99) : max(0, n - 49)]
        mean = sum(last) / len(last)
        deviation = math.sqrt(sum((r - mean) ** 2 for r in last) / len(last))
        phase = 0.8
        if n < 49:
            phase = 1.5
        elif earlier and mean > sum(earlier) / len(earlier) + 0.01:
            phase = 1.2
        elif deviation < 0.02 and mean > 0.7:
            phase = 1.0
        threshold = max(0.1, min(0.6, (0.3 + pid) * phase))
        out.append(0.1 * (short - threshold) ** 2 * 2 / 1.1 if short > threshold else 0.0)
    return out


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 999))
def test_the_control_equals_the_formulas_written_out_over_all_its_phases(seed: int) -> None:
    rng = torch.Generator().manual_seed(seed)
    kls = (1.5 * torch.rand(230, generator=rng, dtype=torch.float64)).tolist()
    climb = torch.cat([torch.linspace(0, 0.9, 120, dtype=torch.float64), torch.full((110,), 0.9, dtype=torch.float64)])
    rewards = (climb + 0.005 * torch.randn(230, generator=rng, dtype=torch.float64)).tolist()
    outs, state = followed(kls, rewards)
    assert [out[BETA] for out in outs] == pytest.approx(oracle(kls, rewards), rel=1e-9, abs=1e-12)
    assert -1.0 <= state["integral"] <= 1.0 and len(state["rewards"]) == 100


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=60))
def test_the_threshold_stays_within_its_bounds_and_the_integral_within_one(rewards: list[float]) -> None:
    _, state = followed([0.0] * len(rewards), rewards)
    assert -1.0 <= state["integral"] <= 1.0
    # A KL of 0.1 is never penalised, one of 0.6 or more always above the threshold.
    assert all(out[BETA] == 0.0 for out in followed([0.1] * len(rewards), rewards)[0])
    assert all(out[BETA] > 0.0 for out in followed([0.7] * len(rewards), rewards)[0])


def test_a_step_without_numbers_changes_nothing() -> None:
    control = entropy_gated_kl()
    drawn = {"engine_logp": torch.tensor([[-1.0]]), "mask": torch.tensor([[True]])}
    state = control.init()
    for line in ({}, {"kl": 0.5}, {"kl": math.nan, "reward": 1.0}, {"kl": 0.5, "reward": math.inf}):
        assert control.update(state, line=line, **drawn) == (state, {})
    empty = {"engine_logp": torch.zeros(1, 1), "mask": torch.tensor([[False]])}
    assert control.update(state, line={"kl": 0.5, "reward": 1.0}, **empty) == (state, {})
    with pytest.raises(SettingError, match="low=2"):
        entropy_gated_kl(low=2.0)


def test_the_step_size_shrinks_as_the_kl_passes_its_preview() -> None:
    assert followed([0.25, 2.0], [0.0, 0.0], lr=1e-3)[0] == [
        {BETA: 0.0, "loop.lr": 1e-3},
        {BETA: 0.0, "loop.lr": pytest.approx(2.5e-4)},
    ]


def test_two_steps_are_finite_and_the_penalty_is_set_from_the_run(tmp_path: Path) -> None:
    form = loop_with(safe(), steps=2, prompts=4, samples=4, eval_every=0, save_every=0)
    with RunFolder(tmp_path / "run") as held:
        lines = list(train(Setup(form, Policy.load("table"), make("bandit,level=10"), held), lambda: None))
    steps = [line for line in lines if line["kind"] == "step"]
    assert all(math.isfinite(line["loss"]) and math.isfinite(line["truegain/critic/loss"]) for line in steps)
    assert all(line["set/surrogate.kl_to_reference.beta"] == 0.0 for line in steps)
