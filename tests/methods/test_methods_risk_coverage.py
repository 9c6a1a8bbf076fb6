"""The coverage loss: limits, the catalog's numbers, the gradient of pass@N, and a fit by its recipe."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from truegain.core.errors import SettingError
from truegain.methods.objective import coverage, negative_logp
from truegain.policy.policy import Policy
from truegain.recipes.dco_limit_confidence import dco_limit_confidence
from truegain.train import offline
from truegain.train.offline import Example


def factor(logp: list[float], tries: int, dtype: torch.dtype = torch.float64) -> list[float]:
    rows = torch.tensor(logp, dtype=dtype)[:, None]
    return coverage(rows, torch.ones_like(rows, dtype=torch.bool), tries=tries)[1]["truegain/coverage_factor"].tolist()


def test_the_factors_of_the_worked_example_come_out() -> None:
    # p = 0.05, N = 16: 16 * 0.05 * 0.95^15 = 0.370633, over 1 - 0.95^16 = 0.559873: 0.66200.
    found = factor([math.log(p) for p in (0.001, 0.05, 0.3, 0.9)], 16)
    assert found == pytest.approx([0.9925, 0.6620, 0.0229, 0.0], abs=1e-4)


@given(st.floats(0.001, 0.999), st.integers(1, 300))
def test_the_factor_equals_its_formula_lies_in_0_to_1_and_falls(p: float, tries: int) -> None:
    (found,) = factor([math.log(p)], tries)
    assert found == pytest.approx(tries * p * (1 - p) ** (tries - 1) / (1 - (1 - p) ** tries), rel=1e-6, abs=1e-12)
    assert 0 <= found <= 1
    assert factor([math.log(p)], tries + 1)[0] <= found + 1e-12
    assert factor([math.log(p * 0.9)], tries)[0] >= found - 1e-12


@given(st.floats(1e-7, 0.1), st.integers(2, 300))
def test_it_agrees_with_the_series_for_small_p(product: float, n: int) -> None:
    p = product / n
    top = 1 - (n - 1) * p + (n - 1) * (n - 2) * p * p / 2
    bottom = 1 - (n - 1) * p / 2 + (n - 1) * (n - 2) * p * p / 6
    for dtype in (torch.float32, torch.float64):
        assert factor([math.log(p)], n, dtype)[0] == pytest.approx(top / bottom, abs=1e-3)


def test_it_is_finite_at_both_ends_in_both_precisions() -> None:
    for dtype in (torch.float32, torch.float64):
        assert factor([0.0, -1e-9, -50.0, -1e4, -math.inf], 64, dtype) == pytest.approx([0, 0, 1, 1, 1], abs=1e-5)


def test_one_try_is_maximum_likelihood() -> None:
    logp, mask = torch.tensor([[-0.5, -2.0], [-1.0, 0.0]]), torch.tensor([[True, True], [True, False]])
    assert torch.equal(coverage(logp, mask, tries=1)[0], negative_logp(logp))


@given(st.lists(st.floats(-4, -0.01), min_size=1, max_size=4), st.integers(1, 100))
def test_its_gradient_is_that_of_minus_log_pass_at_n(tokens: list[float], tries: int) -> None:
    def slope(loss: Tensor, at: Tensor) -> Tensor:
        return torch.autograd.grad(loss, at)[0]

    logp = torch.tensor([tokens], dtype=torch.float64, requires_grad=True)
    ours = slope(coverage(logp, torch.ones_like(logp, dtype=torch.bool), tries=tries)[0].sum(), logp)
    wanted = slope(-torch.log(1 - (1 - logp.sum().exp()) ** tries), logp)
    assert torch.allclose(ours, wanted, atol=1e-6)


def test_the_padding_of_a_row_and_a_row_without_tokens_say_nothing() -> None:
    logp, mask = torch.tensor([[-1.0, math.nan], [0.0, 0.0]]), torch.tensor([[True, False], [False, False]])
    loss, logs = coverage(logp, mask, tries=4)
    p = math.exp(-1)
    assert loss[0, 0].item() == pytest.approx(4 * p * (1 - p) ** 3 / (1 - (1 - p) ** 4), abs=1e-6)
    assert logs["truegain/coverage_factor"][1] == 0 and not loss[1].any()
    with pytest.raises(SettingError, match="tries=0"):
        coverage(logp, mask, tries=0)


def test_the_recipe_fits_and_stops_sharpening_where_likelihood_goes_on() -> None:
    def chance(tries: int) -> float:
        policy = Policy.load("table")
        prompt, answer = policy.encode("ab"), policy.encode("c")
        example = Example(prompt, answer, (True,) * len(answer))
        begun, form = offline.begin(policy, weight_decay=0.0), dco_limit_confidence(tries=tries)
        paced = {"steps": 80, "lr": 0.1, "warmup": 1, "batch_tokens": 8, "schedule": "constant"}
        for fit in offline.sft(form, policy, lambda _: example, begun, **paced):  # type: ignore[arg-type]
            assert math.isfinite(fit.loss)
        tokens = torch.tensor([[*prompt, *answer]])
        with torch.no_grad():
            return float(policy.model(input_ids=tokens).logits[0, len(prompt) - 1].softmax(-1)[answer[0]])

    # Adam coasts about a dozen steps, 1.3 nats, after the gradient has gone.
    assert chance(1) > 0.9 and 0.05 < chance(64) < 0.7
