"""The surrogates of the standard methods: worked examples, and the properties that their formulas have."""

from __future__ import annotations

import inspect
import math
from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from truegain.core.component import Member, call
from truegain.core.errors import SettingError
from truegain.methods.objective import (
    capped_ratio,
    corrected_kl_to_reference,
    kl_to_reference,
    policy_gradient,
    ppo_clip,
    sequence_clip,
    sequence_mean,
    soft_gate,
    token_mean,
)

SEEDS = st.integers(0, 999)
LOG_RATIO = st.floats(-4, 4, allow_nan=False, width=32)


def noise(seed: int, *size: int) -> Tensor:
    return torch.randn(*size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def mask_of(*lengths: int) -> Tensor:
    return torch.arange(max(lengths))[None, :] < torch.tensor(lengths)[:, None]


def gradient(member: Member, weight: Tensor | float = 1.0, **columns: Tensor) -> tuple[Tensor, Tensor]:
    """The per-token loss and the gradient of its weighted sum by ``logp``."""
    logp = columns["logp"].clone().requires_grad_()
    loss = call(member, {**columns, "logp": logp}, {})[0]
    (loss * weight).sum().backward()
    assert logp.grad is not None
    return loss.detach(), logp.grad


# REINFORCE. A = (1, -1), whole-row log-probs (-2, -3): loss = -(1 * -2 + -1 * -3) / 2 = -0.5; slopes -A.


def test_the_score_function_loss_equals_the_worked_example() -> None:
    logp, advantage = torch.tensor([[-2.0], [-3.0]]), torch.tensor([[1.0], [-1.0]])
    loss, slope = gradient(policy_gradient, logp=logp, advantage=advantage)
    assert float((loss * sequence_mean(mask_of(1, 1))).sum()) == -0.5
    assert slope.tolist() == [[-1.0], [1.0]]


@given(SEEDS, st.floats(-5, 5))
def test_a_constant_added_to_all_rewards_leaves_the_expected_gradient(seed: int, constant: float) -> None:
    # Exact expectation over four arms: sum_a p(a) grad(-A(a) log p(a)); grad sum p = 0 kills the constant.
    def expected(reward: Tensor) -> Tensor:
        logits = noise(seed, 1, 4).requires_grad_()
        logp = logits.log_softmax(-1)
        (logp.detach().exp() * policy_gradient(logp, reward)).sum().backward()
        assert logits.grad is not None
        return logits.grad

    reward = noise(seed + 1, 1, 4)
    torch.testing.assert_close(expected(reward + constant), expected(reward), rtol=0, atol=1e-12)


@given(SEEDS)
def test_at_the_old_policy_all_token_surrogates_have_the_gradient_of_reinforce(seed: int) -> None:
    old, advantage = noise(seed, 3, 4), noise(seed + 1, 3, 4)
    for member in (ppo_clip, capped_ratio, soft_gate, policy_gradient):
        columns = {"old_logp": old, "advantage": advantage}
        _, slope = gradient(member, logp=old, **columns)
        torch.testing.assert_close(slope, -advantage)


# CISPO at bounds 0.8 and 1.2, A = 1: rho = 0.5, 1, 1.5 weigh grad logp with 0.8, 1, 1.2.


def test_the_capped_ratio_weighs_gradients_as_in_the_worked_example() -> None:
    logp = torch.tensor([[0.5, 1.0, 1.5]]).log()
    loss, slope = gradient(
        partial(capped_ratio, floor=0.8, cap=1.2), logp=logp, old_logp=torch.zeros(1, 3), advantage=torch.ones(1, 3)
    )
    assert slope.flatten().tolist() == pytest.approx([-0.8, -1.0, -1.2])
    # -0.8 ln 0.5 = 0.554518, 0, -1.2 ln 1.5 = -0.486558
    assert loss.flatten().tolist() == pytest.approx([0.554518, 0.0, -0.486558], abs=1e-6)


def test_the_capped_ratio_counts_the_tokens_at_a_bound() -> None:
    logp = torch.tensor([[0.5, 1.0, 1.5]]).log()
    _, logs = capped_ratio(logp, torch.zeros(1, 3), torch.ones(1, 3), cap=1.2)
    assert logs["cispo_clip_ratio"].tolist() == [[0.0, 0.0, 1.0]]


@given(LOG_RATIO, st.floats(-4, 4).filter(lambda a: abs(a) > 1e-3), st.floats(0, 1), st.floats(1, 6))
def test_no_token_loses_its_gradient_to_the_cap_and_none_exceeds_it(
    log_ratio: float, advantage: float, floor: float, cap: float
) -> None:
    logp = torch.tensor([[log_ratio]], dtype=torch.float64)
    _, slope = gradient(
        partial(capped_ratio, floor=floor, cap=cap),
        logp=logp,
        old_logp=torch.zeros_like(logp),
        advantage=torch.full_like(logp, advantage),
    )
    wanted = -min(max(math.exp(log_ratio), floor), cap) * advantage
    assert float(slope) == pytest.approx(wanted, rel=1e-12)
    assert 0 < abs(float(slope)) <= cap * abs(advantage) * (1 + 1e-12)


@given(SEEDS)
def test_without_bounds_the_capped_ratio_is_the_importance_weighted_gradient(seed: int) -> None:
    columns = {"logp": noise(seed, 2, 3), "old_logp": noise(seed + 1, 2, 3), "advantage": noise(seed + 2, 2, 3)}
    _, ours = gradient(partial(capped_ratio, cap=None), **columns)
    _, ratio = gradient(partial(ppo_clip, clip_low=math.inf, clip_high=math.inf), **columns)
    torch.testing.assert_close(ours, ratio)


# SAPO at tau = 1: f(0.5) = 4 sigmoid(-0.5) = 4 * 0.377541 = 1.510163; f(1) = 4 * 0.5 = 2; f(2) = 4 * 0.731059.
# Slopes 4 s (1 - s): 0.5 and 2 have s = 0.377541, 0.731059 -> 0.940015, 0.786448; at 1 exactly 1. Times rho by logp.


def test_the_soft_gate_and_its_slopes_equal_the_worked_example() -> None:
    rho = torch.tensor([[0.5, 1.0, 2.0]], dtype=torch.float64)
    loss, slope = gradient(soft_gate, logp=rho.log(), old_logp=torch.zeros_like(rho), advantage=torch.ones_like(rho))
    assert loss.flatten().tolist() == pytest.approx([-1.510163, -2.0, -2.924234], abs=1e-6)
    assert (-slope / rho).flatten().tolist() == pytest.approx([0.940015, 1.0, 0.786448], abs=1e-6)


@given(LOG_RATIO, st.floats(-4, 4), st.floats(0.2, 5), st.floats(0.2, 5))
def test_the_soft_gate_follows_its_formula_with_a_tau_for_each_sign(
    log_ratio: float, advantage: float, tau_pos: float, tau_neg: float
) -> None:
    logp = torch.tensor([[log_ratio]], dtype=torch.float64)
    loss, slope = gradient(
        partial(soft_gate, tau_pos=tau_pos, tau_neg=tau_neg),
        logp=logp,
        old_logp=torch.zeros_like(logp),
        advantage=torch.full_like(logp, advantage),
    )
    rho, tau = math.exp(log_ratio), tau_pos if advantage > 0 else tau_neg
    s = 1 / (1 + math.exp(-tau * (rho - 1)))
    assert float(loss) == pytest.approx(-advantage * 4 * s / tau, rel=1e-12, abs=1e-12)
    assert float(slope) == pytest.approx(-advantage * 4 * s * (1 - s) * rho, rel=1e-9, abs=1e-12)


def test_the_soft_gate_trusts_less_the_farther_the_ratio_is_from_one() -> None:
    rho = torch.linspace(0.05, 4.0, 80, dtype=torch.float64)[None]
    one = torch.ones_like(rho)
    _, slope = gradient(soft_gate, logp=rho.log(), old_logp=torch.zeros_like(rho), advantage=one)
    trust = (-slope / rho).flatten()
    below, above = trust[(rho < 1).flatten()], trust[(rho > 1).flatten()]
    assert (below.diff() > 0).all() and (above.diff() < 0).all() and (trust <= 1).all()


# GSPO, log-ratios (0.2, -0.1, 0.5) and (-0.3, -0.1, 0): means 0.2 and -0.1333, rho 1.221403 and 0.875173.
# A = 1 at clip 0.2: -min(1.2214, 1.2) = -1.2, clipped, slope 0. A = -1: 0.875173, within: slope rho each token.
CHANGE = torch.tensor([[0.2, -0.1, 0.5], [-0.3, -0.1, 0.0]], dtype=torch.float64)
SIGN = torch.tensor([[1.0], [-1.0]], dtype=torch.float64).expand(2, 3)
GSPO = partial(sequence_clip, clip_low=0.2, clip_high=0.2)


def test_the_sequence_clip_and_its_slopes_equal_the_worked_example() -> None:
    mask = torch.ones(2, 3, dtype=torch.bool)
    columns = {"logp": CHANGE, "old_logp": torch.zeros_like(CHANGE), "advantage": SIGN, "mask": mask}
    loss, slope = gradient(GSPO, **columns)
    torch.testing.assert_close(loss[:, 0], torch.tensor([-1.2, 0.875173]).double(), rtol=0, atol=1e-6)
    assert (loss == loss[:, :1]).all()
    torch.testing.assert_close(slope[1], torch.full((3,), 0.875173).double(), rtol=0, atol=1e-6)
    assert slope[0].tolist() == [0.0, 0.0, 0.0]


@given(SEEDS, st.sampled_from(["mean", "sum"]), st.lists(st.integers(1, 5), min_size=1, max_size=4))
def test_under_the_sequence_mean_the_gradient_is_that_of_the_rows_own_ratio(
    seed: int, ratio: str, lengths: list[int]
) -> None:
    # The oracle differentiates -mean_i min(rho_i A_i, clip(rho_i) A_i) with rho_i written out.
    mask = mask_of(*lengths)
    logp, old = (0.3 * noise(seed + k, *mask.shape) for k in (0, 1))
    advantage = noise(seed + 2, len(lengths), 1)
    columns = {"logp": logp, "old_logp": old, "advantage": advantage.expand(mask.shape), "mask": mask}
    weight = sequence_mean(mask).double()
    loss, slope = gradient(partial(GSPO, ratio=ratio), weight, **columns)
    leaf = logp.clone().requires_grad_()
    whole = ((leaf - old) * mask).sum(1)
    rho = (whole / mask.sum(1) if ratio == "mean" else whole).exp()[:, None]
    oracle = -torch.minimum(rho * advantage, rho.clamp(0.8, 1.2) * advantage).mean()
    oracle.backward()
    value = oracle.detach()
    assert float((loss * weight).sum()) == pytest.approx(float(value), rel=1e-6)
    torch.testing.assert_close(slope, leaf.grad, rtol=1e-6, atol=1e-9)


@given(SEEDS)
def test_rows_of_one_token_make_the_sequence_clip_the_token_clip(seed: int) -> None:
    mask = torch.ones(5, 1, dtype=torch.bool)
    columns = {"logp": noise(seed, 5, 1), "old_logp": noise(seed + 1, 5, 1), "advantage": noise(seed + 2, 5, 1)}
    for ratio in ("mean", "sum"):
        ours = gradient(partial(GSPO, ratio=ratio), **columns, mask=mask)
        theirs = gradient(ppo_clip, **columns)
        torch.testing.assert_close(ours, theirs)


@given(SEEDS)
def test_all_tokens_of_a_row_are_clipped_together_and_their_order_is_nothing(seed: int) -> None:
    mask = torch.ones(4, 6, dtype=torch.bool)
    logp, old, advantage = 0.3 * noise(seed, 4, 6), torch.zeros(4, 6).double(), noise(seed + 1, 4, 1).expand(4, 6)
    loss, logs = GSPO(logp, old, advantage, mask)
    clipped = logs["clip_ratio/region_mean"]
    assert (clipped == clipped[:, :1]).all()
    order = torch.randperm(6, generator=torch.Generator().manual_seed(seed))
    torch.testing.assert_close(GSPO(logp[:, order], old, advantage, mask)[0], loss)


def test_at_the_old_policy_the_row_ratio_is_one() -> None:
    old, mask = noise(1, 2, 3), torch.ones(2, 3, dtype=torch.bool)
    loss, slope = gradient(sequence_clip, logp=old, old_logp=old, advantage=SIGN, mask=mask)
    assert torch.equal(loss, -SIGN) and torch.equal(slope, -SIGN)


def test_a_row_ratio_that_explodes_is_bounded() -> None:
    huge, mask = torch.full((1, 2), 50.0), torch.ones(1, 2, dtype=torch.bool)
    loss, _ = sequence_clip(huge, torch.zeros(1, 2), -torch.ones(1, 2), mask)
    assert loss.flatten().tolist() == pytest.approx([math.exp(10)] * 2)


def test_an_unknown_ratio_is_refused() -> None:
    zeros, mask = torch.zeros(1, 1), torch.ones(1, 1, dtype=torch.bool)
    with pytest.raises(SettingError, match="ratio='product'; it is mean or sum"):
        inspect.unwrap(sequence_clip)(zeros, zeros, zeros, mask, ratio="product")


# Two-sided clip: A = -1, rho = 5. delta 2: -min(2 * -1, 1.2 * -1) = 2, flat. Without: 5, slope 5.


def test_delta_caps_the_unclipped_ratio() -> None:
    logp, zero, minus = torch.full((1, 1), math.log(5.0)), torch.zeros(1, 1), -torch.ones(1, 1)
    loss, slope = gradient(partial(ppo_clip, delta=2.0), logp=logp, old_logp=zero, advantage=minus)
    assert (float(loss), float(slope)) == pytest.approx((2.0, 0.0))
    loss, slope = gradient(ppo_clip, logp=logp, old_logp=zero, advantage=minus)
    assert (float(loss), float(slope)) == pytest.approx((5.0, 5.0))


@given(SEEDS, st.floats(1.2, 4))
def test_above_the_clip_trls_delta_and_verls_dual_clip_are_one_function(seed: int, bound: float) -> None:
    columns = {"logp": noise(seed, 4, 5), "old_logp": noise(seed + 1, 4, 5), "advantage": noise(seed + 2, 4, 5)}
    torch.testing.assert_close(
        gradient(partial(ppo_clip, delta=bound), **columns), gradient(partial(ppo_clip, dual=bound), **columns)
    )


def test_below_the_clip_they_differ() -> None:
    # rho = 1.15, A = 1, bound 1.1 < 1.2: delta caps the gain at 1.1, the dual clip concerns only A < 0.
    logp, zero, one = torch.full((1, 1), math.log(1.15)), torch.zeros(1, 1), torch.ones(1, 1)
    assert float(ppo_clip(logp, zero, one, delta=1.1)[0]) == pytest.approx(-1.1)
    assert float(ppo_clip(logp, zero, one, dual=1.1)[0]) == pytest.approx(-1.15)


# The "+" estimators at d = -1: value of k1 (-1), k3 (e - 2) or abs (1), slope d = -1 of k2.


@pytest.mark.parametrize(("estimator", "value"), [("k1+", -1.0), ("k3+", math.e - 2), ("abs+", 1.0)])
def test_a_plus_takes_the_value_of_the_estimator_and_the_slope_of_k2(estimator: str, value: float) -> None:
    logp, ref = torch.tensor([[-3.0]], dtype=torch.float64), torch.tensor([[-2.0]], dtype=torch.float64)
    loss, slope = gradient(partial(kl_to_reference, beta=2.0, estimator=estimator), logp=logp, ref_logp=ref)
    assert (float(loss), float(slope)) == pytest.approx((2 * value, -2.0))


def test_the_bounds_of_k3_bind_no_other_estimator() -> None:
    far, near = torch.tensor([[-35.0]]), torch.zeros(1, 1)
    found = {e: float(kl_to_reference(far, near, beta=1.0, estimator=e)[0]) for e in ("k1", "k2", "k3", "abs")}
    assert found == {"k1": -35.0, "k2": 612.5, "k3": 10.0, "abs": 35.0}


def test_the_corrected_k3_has_the_gradient_of_the_kl_of_the_current_policy_off_policy_too() -> None:
    # Exact expectation over five outcomes drawn by the OLD policy q: sum q (p / q) k3 differentiates to grad KL(p|r).
    logits, old, ref = noise(5, 5).requires_grad_(), noise(6, 5).log_softmax(-1), noise(7, 5).log_softmax(-1)
    logp = logits.log_softmax(-1)
    kl, _ = corrected_kl_to_reference(logp[None], old[None], ref[None], beta=1.0)
    found = torch.autograd.grad((old.exp() * kl).sum(), logits, retain_graph=True)[0]
    wanted = torch.autograd.grad((logp.exp() * (logp - ref)).sum(), logits, retain_graph=True)[0]
    torch.testing.assert_close(found, wanted)
    plain, _ = kl_to_reference(logp[None], ref[None], beta=1.0)
    assert (torch.autograd.grad((old.exp() * plain).sum(), logits)[0] - wanted).abs().max() > 1e-2


@given(SEEDS)
def test_tokens_outside_the_mask_get_no_gradient(seed: int) -> None:
    mask = mask_of(4, 2, 1)
    columns = {name: noise(seed + k, 3, 4) for k, name in enumerate(("logp", "old_logp", "ref_logp", "advantage"))}
    for member in (policy_gradient, capped_ratio, soft_gate, sequence_clip, corrected_kl_to_reference):
        _, slope = gradient(member, token_mean(mask).double(), **columns, mask=mask)
        assert not slope[~mask].any()
