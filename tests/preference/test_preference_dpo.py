"""DPO on its own numbers: goldens, an oracle, and what it must not depend on."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from truegain.methods.preference import dpo

RATIOS = st.lists(st.tuples(st.floats(-5.0, -0.01), st.floats(-5.0, -0.01)), min_size=1, max_size=6)
Rows = list[tuple[float, float]]


def side(rows: Rows) -> tuple[Tensor, Tensor, Tensor]:
    # Rubbish behind the last token, as padding may hold.
    table = torch.tensor([*rows, (float("nan"), float("nan"))], dtype=torch.float64).T[:, None]
    return table[0], table[1], table[0].isfinite()


def loss(chosen: Rows, rejected: Rows, **knobs: float) -> float:
    return float(dpo(*side(chosen), *side(rejected), **knobs)[0])


def test_the_worked_example_of_the_catalog_with_its_gradient() -> None:
    # h = (-10 + 11) - (-12 + 11.5) = 1.5; log(1 + e^-.15) = 0.62096; -0.1 * (1 - sigmoid(.15)) = -0.04626
    assert loss([(-10.0, -11.0)], [(-12.0, -11.5)]) == pytest.approx(0.62096, abs=1e-5)
    one = torch.ones(1, 1, dtype=torch.bool)
    logp = {name: torch.tensor([[value]], requires_grad=True) for name, value in (("c", -10.0), ("r", -12.0))}
    ref = {name: torch.tensor([[value]], requires_grad=True) for name, value in (("c", -11.0), ("r", -11.5))}
    found, logs = dpo(logp["c"], ref["c"], one, logp["r"], ref["r"], one)
    found.mean().backward()
    assert logp["c"].grad is not None and logp["r"].grad is not None
    assert float(logp["c"].grad) == pytest.approx(-0.04626, abs=1e-5)
    assert float(logp["r"].grad) == pytest.approx(0.04626, abs=1e-5)
    # 0.1 * 1, 0.1 * -0.5 and their difference
    told = {"chosen": 0.1, "rejected": -0.05, "margins": 0.15, "accuracies": 1.0}
    assert {name: float(logs[f"rewards/{name}"]) for name in told} == pytest.approx(told)


def test_log_probs_are_summed_over_tokens_as_trl_does() -> None:
    # chosen 3 * 0.5 nats over the reference, rejected 1 * 0.5: d = 0.1 * (1.5 - 0.5) = 0.1; log(1 + e^-.1) = 0.64440
    assert loss([(-1.0, -1.5)] * 3, [(-1.0, -1.5)]) == pytest.approx(0.64440, abs=1e-5)


@given(RATIOS, RATIOS, st.floats(0.01, 2.0), st.floats(0.0, 0.4))
def test_the_loss_is_the_formula(a: Rows, b: Rows, beta: float, smooth: float) -> None:
    d = beta * (sum(p - q for p, q in a) - sum(p - q for p, q in b))
    wanted = (1 - smooth) * math.log1p(math.exp(-d)) + smooth * math.log1p(math.exp(d))
    assert loss(a, b, beta=beta, smoothing=smooth) == pytest.approx(wanted, abs=1e-9)


@given(RATIOS, RATIOS)
def test_a_pair_and_its_reverse_cost_the_margin_apart(a: Rows, b: Rows) -> None:
    margin = sum(p - q for p, q in a) - sum(p - q for p, q in b)
    assert loss(a, b, beta=1.0) - loss(b, a, beta=1.0) == pytest.approx(-margin, abs=1e-9)


def test_an_untrained_model_costs_log_2_and_wins_half() -> None:
    same = [(-1.0, -1.0), (-2.0, -2.0)]
    assert loss(same, same[:1]) == pytest.approx(math.log(2))
    assert float(dpo(*side(same), *side(same[:1]))[1]["rewards/accuracies"]) == 0.5


def test_an_empty_completion_has_the_reward_0_and_gradients_stay_finite() -> None:
    nothing, none = torch.zeros(1, 0), torch.zeros(1, 0, dtype=torch.bool)
    said = torch.tensor([[-1.0, -2.0]], requires_grad=True)
    found, _ = dpo(said, torch.tensor([[-2.0, -2.0]]), torch.ones(1, 2).bool(), nothing, nothing, none, beta=1.0)
    assert float(found.detach()) == pytest.approx(math.log1p(math.exp(-1.0)), abs=1e-6)
    found.sum().backward()
    assert said.grad is not None and said.grad.isfinite().all()


def test_a_nan_at_a_token_spoils_its_own_pair_only() -> None:
    logp = torch.tensor([[-1.0], [float("nan")]])
    one = torch.ones(2, 1, dtype=torch.bool)
    found, _ = dpo(logp, torch.zeros(2, 1), one, torch.zeros(2, 1), torch.zeros(2, 1), one)
    assert found.isnan().tolist() == [False, True]


@pytest.mark.parametrize("wrong", [{"beta": 0.0}, {"smoothing": 0.5}, {"smoothing": -0.1}])
def test_knobs_out_of_bounds_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="dpo"):
        loss([(-1.0, -1.0)], [(-1.0, -1.0)], **wrong)
