"""Objective components against worked examples and the properties that the formulas have."""

from __future__ import annotations

import inspect
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from truegain.core.component import Member
from truegain.core.errors import SettingError
from truegain.methods.objective import kl_to_reference, ppo_clip, sequence_mean, sequence_sum, token_mean

FINITE = st.floats(-4, 4, allow_nan=False, width=32)
LENGTHS = st.lists(st.integers(0, 6), min_size=1, max_size=6).filter(any)


def mask_of(lengths: list[int], width: int | None = None) -> Tensor:
    return torch.arange(width or max(lengths))[None, :] < torch.tensor(lengths)[:, None]


def noise(seed: int, *size: int) -> Tensor:
    return torch.randn(*size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# Weights. Losses [[1, 2, 3], [4, -, -]]:
#   all tokens alike       (1 + 2 + 3 + 4) / 4 = 2.5
#   rows summed, averaged  (6 + 4) / 2 = 5
#   rows averaged twice    (6 / 3 + 4 / 1) / 2 = 3
#   Dr. GRPO in TRL        10 / (B * Lmax) = 10 / (2 * 3) = 1.6667: the row sum at length 3
#   Dr. GRPO in older verl  10 / 3 = 3.3333: it did not divide by the rows; 0.9 and we do, ours times 2 rows


@pytest.mark.parametrize(
    ("weight", "knobs", "scale", "wanted"),
    [
        (token_mean, {}, 1, 2.5),
        (sequence_sum, {}, 1, 5.0),
        (sequence_mean, {}, 1, 3.0),
        (sequence_sum, {"length": 3.0}, 1, 10 / 6),
        (sequence_sum, {"length": 3.0}, 2, 10 / 3),
    ],
)
def test_weights_sum_the_worked_example(weight: Member, knobs: dict[str, float], scale: int, wanted: float) -> None:
    loss = torch.tensor([[1.0, 2.0, 3.0], [4.0, 0.0, 0.0]])
    assert float((loss * weight(mask_of([3, 1]), **knobs)).sum()) * scale == pytest.approx(wanted, abs=1e-6)


def test_a_long_row_has_nine_times_the_gradient_of_a_short_one_only_under_the_token_mean() -> None:
    mask = mask_of([1, 9])
    for weight, ratio in ((token_mean, 9.0), (sequence_mean, 1.0), (sequence_sum, 9.0)):
        loss = torch.ones(2, 9, requires_grad=True)
        (loss * weight(mask)).sum().backward()
        assert loss.grad is not None
        mass = loss.grad.abs().sum(dim=1)
        assert float(mass[1] / mass[0]) == pytest.approx(ratio, abs=1e-4)


@given(st.integers(1, 6), st.integers(1, 6), st.integers(0, 999))
def test_rows_of_one_length_make_all_weights_agree_up_to_a_constant(rows: int, length: int, seed: int) -> None:
    mask, loss = mask_of([length] * rows), noise(seed, rows, length)
    mean = float((loss * token_mean(mask)).sum())
    assert float((loss * sequence_mean(mask)).sum()) == pytest.approx(mean, abs=1e-6)
    assert float((loss * sequence_sum(mask)).sum()) == pytest.approx(length * mean, abs=1e-5)
    assert float((loss * sequence_sum(mask, length=float(length))).sum()) == pytest.approx(mean, abs=1e-6)


@given(LENGTHS, st.integers(1, 3))
def test_fully_masked_rows_change_no_weight(lengths: list[int], more: int) -> None:
    mask = mask_of(lengths)
    longer = torch.cat([mask, torch.zeros(more, mask.shape[1], dtype=torch.bool)])
    for weight in (token_mean, sequence_mean, sequence_sum):
        assert torch.equal(weight(longer)[: len(lengths)], weight(mask))
        assert not weight(longer)[len(lengths) :].any()


@given(LENGTHS)
def test_weights_of_a_mean_sum_to_one(lengths: list[int]) -> None:
    for weight in (token_mean, sequence_mean):
        assert float(weight(mask_of(lengths)).sum()) == pytest.approx(1.0, abs=1e-6)


def test_nothing_chosen_gives_zeros() -> None:
    for weight in (token_mean, sequence_mean, sequence_sum):
        assert weight(torch.zeros(2, 3, dtype=torch.bool)).tolist() == [[0.0] * 3] * 2


# The clipped surrogate at clip 0.2, L = -min(rho A, clip(rho, 0.8, 1.2) A):
#   log-ratio  0.3, A =  1: rho = e^0.3 = 1.34986, the clipped 1.2 is smaller     -> -1.2
#   log-ratio -0.4, A =  1: rho = e^-0.4 = 0.67032 is smaller than 0.8            -> -0.67032
#   log-ratio  0.3, A = -1: -1.34986 is smaller than -1.2                         -> 1.34986
#   log-ratio -0.4, A = -1: -0.8 is smaller than -0.67032                         -> 0.8
# Slopes dL/dlogp: -rho A where the unclipped side is the smaller one, 0 elsewhere: 0, -0.67032, 1.34986, 0.
LOG_RATIO = [[0.3, -0.4, 0.3, -0.4]]
SIGNS = [[1.0, 1.0, -1.0, -1.0]]


def test_the_clipped_loss_and_its_slopes_equal_the_worked_example() -> None:
    logp = torch.tensor(LOG_RATIO, requires_grad=True)
    loss, logs = ppo_clip(logp, torch.zeros(1, 4), torch.tensor(SIGNS))
    assert loss.flatten().tolist() == pytest.approx([-1.2, -0.67032, 1.34986, 0.8], abs=1e-5)
    loss.sum().backward()
    assert logp.grad is not None
    assert logp.grad.flatten().tolist() == pytest.approx([0.0, -0.67032, 1.34986, 0.0], abs=1e-5)
    assert logs["clip_ratio/high_mean"].tolist() == [[1.0, 0.0, 0.0, 0.0]]
    assert logs["clip_ratio/low_mean"].tolist() == [[0.0, 0.0, 0.0, 1.0]]
    assert logs["clip_ratio/region_mean"].tolist() == [[1.0, 0.0, 0.0, 1.0]]


@given(FINITE, FINITE, st.floats(0, 0.9), st.floats(0, 3))
def test_the_gradient_is_zero_exactly_on_the_pessimistic_side_of_the_clip(
    log_ratio: float, advantage: float, low: float, high: float
) -> None:
    logp = torch.tensor([[log_ratio]], dtype=torch.float64, requires_grad=True)
    loss, _ = ppo_clip(logp, torch.zeros_like(logp), torch.full_like(logp, advantage), clip_low=low, clip_high=high)
    loss.sum().backward()
    assert logp.grad is not None
    rho = math.exp(log_ratio)
    clipped = (advantage > 0 and rho > 1 + high) or (advantage < 0 and rho < 1 - low)
    assert float(logp.grad) == pytest.approx(0.0 if clipped else -rho * advantage, abs=1e-9)
    wanted = -min(rho * advantage, min(max(rho, 1 - low), 1 + high) * advantage)
    assert float(loss.detach()) == pytest.approx(wanted, abs=1e-9)


@given(st.integers(0, 999))
def test_at_the_old_policy_the_loss_is_minus_the_advantage_with_the_gradient_of_reinforce(seed: int) -> None:
    advantage, old = noise(seed, 3, 4), noise(seed + 1, 3, 4)
    logp = old.clone().requires_grad_()
    loss, _ = ppo_clip(logp, old, advantage)
    assert torch.equal(loss.detach(), -advantage)
    loss.sum().backward()
    assert logp.grad is not None
    assert torch.equal(logp.grad, -advantage)


@given(st.integers(0, 999))
def test_without_bounds_it_is_the_importance_weighted_policy_gradient(seed: int) -> None:
    advantage, log_ratio = noise(seed, 3, 4), noise(seed + 1, 3, 4)
    loss, logs = ppo_clip(log_ratio, torch.zeros(3, 4).double(), advantage, clip_low=math.inf, clip_high=math.inf)
    torch.testing.assert_close(loss, -log_ratio.exp() * advantage)
    assert not logs["clip_ratio/region_mean"].any()


def test_an_exploded_log_ratio_is_bounded() -> None:
    loss, _ = ppo_clip(torch.tensor([[1e4]]), torch.zeros(1, 1), torch.tensor([[-1.0]]))
    assert float(loss) == pytest.approx(math.exp(20), rel=1e-5)


# KL estimates at d = logp - ref_logp:
#   d = -1:  k1 = -1,  k2 = 0.5,   k3 = e^1 - 1 - 1 = 0.71828
#   d = 0.5: k1 = 0.5, k2 = 0.125, k3 = e^-0.5 + 0.5 - 1 = 0.10653


@pytest.mark.parametrize(
    ("estimator", "wanted", "slope"),
    [
        ("k1", [-1.0, 0.5], [1.0, 1.0]),
        ("k2", [0.5, 0.125], [-1.0, 0.5]),
        ("k3", [0.718282, 0.106531], [1 - math.e, 1 - math.exp(-0.5)]),
    ],
)
def test_kl_estimates_equal_their_formulas(estimator: str, wanted: list[float], slope: list[float]) -> None:
    logp = torch.tensor([[-3.0, -1.0]], requires_grad=True)
    loss, logs = kl_to_reference(logp, torch.tensor([[-2.0, -1.5]]), beta=2.0, estimator=estimator)
    assert logs["kl"].flatten().tolist() == pytest.approx(wanted, abs=1e-6)
    assert loss.flatten().tolist() == pytest.approx([2 * w for w in wanted], abs=1e-6)
    loss.sum().backward()
    assert logp.grad is not None
    assert logp.grad.flatten().tolist() == pytest.approx([2 * s for s in slope], abs=1e-6)


@given(FINITE, FINITE)
def test_k2_and_k3_are_never_negative_and_all_vanish_at_the_reference(logp: float, ref_logp: float) -> None:
    one, other = torch.tensor([[logp]]), torch.tensor([[ref_logp]])
    for estimator in ("k1", "k2", "k3"):
        value = float(kl_to_reference(one, other, estimator=estimator, beta=1.0)[0])
        assert value >= 0 or (estimator == "k1" and logp < ref_logp)
        assert float(kl_to_reference(one, one, estimator=estimator, beta=1.0)[0]) == 0.0


def test_on_policy_k2_alone_has_the_gradient_of_the_kl() -> None:
    # Exact expectations over five outcomes. KL(p || q) = sum p log(p / q); E[grad k1] = grad sum p = 0; E[grad k3] is
    # the gradient of KL(q || p).
    logits, ref = noise(3, 5).requires_grad_(), noise(4, 5).log_softmax(-1)

    def expected(estimator: str) -> Tensor:
        logp = logits.log_softmax(-1)
        kl, _ = kl_to_reference(logp[None], ref[None], beta=1.0, estimator=estimator)
        return torch.autograd.grad((logp.detach().exp() * kl).sum(), logits)[0]

    p = logits.log_softmax(-1)
    forward = torch.autograd.grad((p.exp() * (p - ref)).sum(), logits, retain_graph=True)[0]
    reverse = torch.autograd.grad((ref.exp() * (ref - p)).sum(), logits)[0]
    torch.testing.assert_close(expected("k2"), forward)
    torch.testing.assert_close(expected("k3"), reverse)
    torch.testing.assert_close(expected("k1"), torch.zeros(5).double())
    assert (forward - reverse).abs().max() > 1e-2


def test_an_unknown_estimator_is_refused() -> None:
    # Without the tests' own type checker, which would be first to refuse it.
    with pytest.raises(SettingError, match="estimator='k4'"):
        inspect.unwrap(kl_to_reference)(torch.zeros(1, 1), torch.zeros(1, 1), estimator="k4")


def test_the_dual_clip_bounds_the_loss_of_a_negative_advantage() -> None:
    # Ye et al. 2020 as in verl: A = -1, rho = 5, c = 3. min(rho A, clip(rho) A) = -5, so L = 5; bounded by -c A = 3.
    old, new = torch.zeros(1, 2), torch.full((1, 2), math.log(5.0))
    advantage = torch.tensor([[-1.0, 1.0]])
    loss, _ = ppo_clip(new, old, advantage, dual=3.0)
    torch.testing.assert_close(loss, torch.tensor([[3.0, -1.2]]))
    free, _ = ppo_clip(new, old, advantage)
    torch.testing.assert_close(free, torch.tensor([[5.0, -1.2]]))


def test_one_far_token_cannot_be_the_whole_penalty() -> None:
    far, near = torch.tensor([[-25.0]]), torch.tensor([[-1.0]])
    assert float(kl_to_reference(far, near, beta=1.0)[0]) == 10.0  # k3 would be exp(20) - 21
