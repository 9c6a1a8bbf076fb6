"""Chi-squared to the reference: golden values, the gradient of the root, bounds."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import truegain.recipes  # noqa: F401  (registers the systems)
from truegain.core import arithmetic
from truegain.core.batch import Batch
from truegain.core.forms import Train
from truegain.core.system import build
from truegain.methods.objective import chi2_root, chi2_to_reference

LOG_RATIO = torch.tensor([[0.5], [-0.2], [0.0]])
ONES = torch.ones(3, 1, dtype=torch.bool)


def test_the_estimate_is_as_derived_by_hand():
    # e^.5 + e^-.5 - 2 = 0.25525, e^.2 + e^-.2 - 2 = 0.04013, 0; mean 0.09846, root 0.31379
    loss, _ = chi2_to_reference(LOG_RATIO, torch.zeros(3, 1), ONES)
    assert loss[:, 0].tolist() == pytest.approx([0.25525, 0.04013, 0.0], abs=1e-5)
    weight = chi2_root(LOG_RATIO, torch.zeros(3, 1), ONES)
    assert weight[:, 0].tolist() == pytest.approx([1 / (2 * 0.31379 * 3)] * 3, rel=1e-4)


@given(st.lists(st.lists(st.floats(-3, 3), min_size=1, max_size=4), min_size=1, max_size=5))
def test_the_loss_has_the_gradient_of_the_root_of_the_batch_mean(rows):
    width = max(map(len, rows))
    mask = torch.tensor([[t < len(row) for t in range(width)] for row in rows])
    padded = torch.tensor([row + [0.0] * (width - len(row)) for row in rows], dtype=torch.float64)
    logp, ref = padded.clone().requires_grad_(), torch.zeros_like(padded)
    ratio = (logp * mask).sum(dim=1)
    chi2 = (ratio.exp() + (-ratio).exp() - 2).mean()
    weight = chi2_root(padded, ref, mask)
    (found,) = torch.autograd.grad((chi2_to_reference(logp, ref, mask)[0] * weight).sum(), logp)
    if float(chi2.detach()) > 1e-4:
        (expected,) = torch.autograd.grad(chi2.sqrt(), logp)
        assert torch.allclose(found, expected, rtol=1e-6, atol=1e-9)
    else:
        assert (found == 0).all()


def test_at_the_reference_there_is_no_penalty_and_no_gradient():
    logp = torch.zeros(3, 1, requires_grad=True)
    loss, _ = chi2_to_reference(logp, torch.zeros(3, 1), ONES)
    weighted = (loss * chi2_root(logp.detach(), torch.zeros(3, 1), ONES)).sum()
    weighted.backward()
    assert float(weighted.detach()) == 0.0
    assert logp.grad is not None and (logp.grad == 0).all()


@given(st.floats(-500, 500))
def test_it_is_never_negative_and_finite_however_far_the_policy_is(far):
    logp = torch.tensor([[far]], requires_grad=True)
    loss, _ = chi2_to_reference(logp, torch.zeros(1, 1), ONES[:1])
    loss.sum().backward()
    assert float(loss.detach()) >= -1e-3 and math.isfinite(float(loss.detach()))
    assert logp.grad is not None and torch.isfinite(logp.grad).all()


def test_beyond_the_bound_the_exponential_goes_on_as_its_tangent():
    # At 12 with bound 10: e^10 (1 + 2) + e^-12 - 2
    loss, _ = chi2_to_reference(torch.tensor([[12.0]]), torch.zeros(1, 1), ONES[:1])
    assert float(loss) == pytest.approx(3 * math.exp(10) - 2, rel=1e-6)


def test_on_samples_of_the_policy_it_estimates_chi_squared():
    # sum (p - q)^2 / q = .09/.4 + .04/.4 + .01/.2 = 0.375, the catalog's pair
    p, q = torch.tensor([0.7, 0.2, 0.1]), torch.tensor([0.4, 0.4, 0.2])
    logp, ref = p.log()[:, None], q.log()[:, None]
    estimate = chi2_to_reference(logp, ref, ONES)[0][:, 0]
    assert float((p * estimate).sum()) == pytest.approx(0.375, abs=1e-6)


@pytest.mark.parametrize(("chance", "reference", "share"), [(0.501, 0.5, 1.0), (0.5, 1e-4, 0.5)])
def test_its_expected_gradient_is_chi_squareds_near_the_reference_and_half_of_it_far_away(chance, reference, share):
    q = torch.tensor([reference, 1 - reference], dtype=torch.float64)
    logits = torch.tensor([chance, 1 - chance], dtype=torch.float64).log().requires_grad_()
    logp = logits.log_softmax(0)
    estimate = chi2_to_reference(logp[:, None], q.log()[:, None], ONES[:2])[0][:, 0]
    (found,) = torch.autograd.grad((logp.exp().detach() * estimate).sum(), logits, retain_graph=True)
    (exact,) = torch.autograd.grad(((logp.exp() - q) ** 2 / q).sum(), logits)
    assert (found / exact).tolist() == pytest.approx([share] * 2, rel=0.01)


def test_empty_rows_count_for_nothing():
    mask = torch.tensor([[True], [False], [True]])
    some = chi2_root(LOG_RATIO[[0, 2]], torch.zeros(2, 1), ONES[:2])
    assert torch.allclose(chi2_root(LOG_RATIO[[0, 1, 2]], torch.zeros(3, 1), mask)[[0, 2]], some)
    assert (chi2_root(LOG_RATIO, torch.zeros(3, 1), ~ONES) == 0).all()


def test_a_scale_of_0_leaves_the_reward_alone():
    (form,) = build("orpo-chi2", scale=0.0)
    assert isinstance(form, Train)
    batch = Batch(mask=ONES, group=torch.zeros(3, dtype=torch.long), reward=torch.tensor([1.0, 0.0, 2.0]),
                  old_logp=LOG_RATIO, ref_logp=torch.zeros(3, 1))  # fmt: skip
    grads = []
    for made in (form, Train(reward=form.reward, terms=form.terms[:1], roles=form.roles)):
        advantages, _ = arithmetic.credit_stage(made, batch, {})
        (step,), _ = arithmetic.plan_stage(made, batch, advantages, {})
        logp = LOG_RATIO.clone().requires_grad_()
        arithmetic.loss_of(made, step, torch.arange(3), {"logp": logp}, {})[0].backward()
        grads.append(logp.grad)
    assert torch.equal(grads[0], grads[1])
