"""KL estimators: worked example, expectations on enumerated support, and the gradient that each really gives."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from truegain.core.errors import SettingError
from truegain.core.forms import Train, members
from truegain.core.kl import kl_estimate
from truegain.core.settings import loop_with
from truegain.core.system import build
from truegain.methods.objective import kl_to_reference
from truegain.methods.reward import reference_kl
from truegain.policy.policy import Policy
from truegain.recipes.kl_estimators import kl_estimators
from truegain.tasks import make
from truegain.train.folder import RunFolder
from truegain.train.online import Setup, train

PI, REF = [0.7, 0.2, 0.1], [0.4, 0.4, 0.2]
LOGITS = st.lists(st.floats(-1.5, 1.5), min_size=4, max_size=4)


def per_action(estimator: Any, pi: list[float] = PI, ref: list[float] = REF) -> list[float]:
    """The penalty of a completion of one token, for every token."""
    old, other = (torch.tensor(x, dtype=torch.float64).log()[:, None] for x in (pi, ref))
    whole = torch.ones(len(pi), 1, dtype=torch.bool)
    return (-reference_kl(old, other, whole, beta=1.0, estimator=estimator)).tolist()


def test_the_estimates_of_each_action_are_those_of_the_worked_example() -> None:
    # x = ln(0.7/0.4) = 0.559616, ln(0.2/0.4) = -0.693147 twice; k2 = x^2/2; k3 = e^-x - 1 + x: 0.4/0.7 - 1 + 0.559616.
    assert per_action("k1") == pytest.approx([0.559616, -0.693147, -0.693147], abs=1e-6)
    assert per_action("k2") == pytest.approx([0.156585, 0.240227, 0.240227], abs=1e-6)
    assert per_action("k3") == pytest.approx([0.131044, 0.306853, 0.306853], abs=1e-6)


def test_k1_and_k3_have_the_kl_as_mean_and_k2_has_not() -> None:
    exact = sum(p * math.log(p / q) for p, q in zip(PI, REF, strict=True))
    means = {name: sum(p * k for p, k in zip(PI, per_action(name), strict=True)) for name in ("k1", "k2", "k3")}
    assert exact == pytest.approx(0.18379, abs=1e-5)
    assert means == pytest.approx({"k1": exact, "k2": 0.181677, "k3": exact}, abs=1e-5)


def test_near_equality_k3_varies_less_than_k1() -> None:
    pi = [0.42, 0.39, 0.19]

    def variance(name: str) -> float:
        values = per_action(name, pi)
        mean = sum(p * v for p, v in zip(pi, values, strict=True))
        return sum(p * (v - mean) ** 2 for p, v in zip(pi, values, strict=True))

    assert variance("k3") < 0.1 * variance("k1")


@given(LOGITS, LOGITS)
def test_k2_and_k3_are_never_negative_and_all_are_0_at_the_reference(one: list[float], other: list[float]) -> None:
    pi, ref = (torch.tensor(x, dtype=torch.float64).softmax(0).tolist() for x in (one, other))
    assert min(per_action("k2", pi, ref)) >= 0 and min(per_action("k3", pi, ref)) >= -1e-12
    for name in ("k1", "k2", "k3", "abs"):
        assert per_action(name, pi, pi) == pytest.approx([0.0] * 4, abs=1e-12)


# The gradient of each, in expectation over all actions, with respect to the logits


def exact_gradients(logits: Tensor, ref: Tensor) -> tuple[Tensor, Tensor]:
    """Of KL(pi, ref) and of KL(ref, pi), by the closed forms ``pi * (x - KL)`` and ``pi - ref``."""
    pi = logits.softmax(0)
    x = pi.log() - ref.log()
    return pi * (x - (pi * x).sum()), pi - ref


def expected_gradient(place: str, estimator: Any, logits: Tensor, ref: Tensor) -> Tensor:
    """Mean over all actions of what one sample would give, taken through the components themselves."""
    leaf = logits.clone().requires_grad_()
    logp = leaf.log_softmax(0)
    chance, whole = logp.detach().exp(), torch.ones(len(logits), 1, dtype=torch.bool)
    if place == "loss":
        per_sample = kl_to_reference(logp[:, None], ref.log()[:, None], beta=1.0, estimator=estimator)[0][:, 0]
    else:
        pays = reference_kl(logp.detach()[:, None], ref.log()[:, None], whole, beta=1.0, estimator=estimator)
        per_sample = -pays * logp
    (found,) = torch.autograd.grad((chance * per_sample).sum(), leaf)
    return found


@settings(max_examples=40)
@given(LOGITS, LOGITS)
def test_each_estimator_gives_in_each_place_the_gradient_that_the_table_says(a: list[float], b: list[float]) -> None:
    logits, ref = torch.tensor(a, dtype=torch.float64), torch.tensor(b, dtype=torch.float64).softmax(0)
    forward, reverse = exact_gradients(logits, ref)
    pi = logits.softmax(0)
    x = pi.log() - ref.log()
    # grad E[k2] = E[k2 grad logp] + E[x grad logp], the second being grad KL(pi, ref).
    score_of_k2 = pi * (x * x / 2 - (pi * x * x / 2).sum())
    wanted = {
        ("loss", "k1"): torch.zeros(4, dtype=torch.float64),
        ("loss", "k2"): forward,
        ("loss", "k3"): reverse,
        ("loss", "k1+"): forward,
        ("reward", "k1"): forward,
        ("reward", "k2"): score_of_k2,
        ("reward", "k3"): forward - reverse,
    }
    for (place, name), gradient in wanted.items():
        torch.testing.assert_close(expected_gradient(place, name, logits, ref), gradient, rtol=1e-9, atol=1e-9)


@given(LOGITS, LOGITS)
def test_the_closed_forms_are_the_derivatives_of_both_divergences(a: list[float], b: list[float]) -> None:
    leaf = torch.tensor(a, dtype=torch.float64, requires_grad=True)
    ref = torch.tensor(b, dtype=torch.float64).softmax(0)
    logp = leaf.log_softmax(0)
    kls = (logp.exp() * (logp - ref.log())).sum(), (ref * (ref.log() - logp)).sum()
    for kl, wanted in zip(kls, exact_gradients(leaf.detach(), ref), strict=True):
        torch.testing.assert_close(torch.autograd.grad(kl, leaf, retain_graph=True)[0], wanted, rtol=1e-9, atol=1e-9)


def test_near_the_reference_k2_and_k3_in_the_reward_hardly_pull_and_k1_does() -> None:
    ref = torch.tensor([0.4, 0.3, 0.2, 0.1], dtype=torch.float64)
    near = ref.log() + 0.01 * torch.tensor([1.0, -1.0, 0.5, 0.0], dtype=torch.float64)
    sizes = {name: float(expected_gradient("reward", name, near, ref).norm()) for name in ("k1", "k2", "k3")}
    assert sizes["k2"] < 0.02 * sizes["k1"] and sizes["k3"] < 0.02 * sizes["k1"]


def test_over_two_tokens_k2_in_the_loss_leaves_out_how_the_prefix_was_come_by_and_k1_in_the_reward_does_not() -> None:
    # Two binary tokens; the second one's logit is p after 0 and q after 1. Exact KL of the sequence by enumeration.
    leaf = torch.tensor([0.3, 1.2, -0.4], dtype=torch.float64, requires_grad=True)
    ref = torch.tensor([0.5, 0.5], dtype=torch.float64).log()
    first, later = torch.nn.functional.logsigmoid(torch.stack([leaf[0], -leaf[0]])), leaf[1:]
    rows = [(a, b) for a in (0, 1) for b in (0, 1)]
    second = torch.stack([torch.nn.functional.logsigmoid(later[a] * (1 - 2 * b)) for a, b in rows])
    logp = torch.stack([torch.stack([first[a] for a, _ in rows]), second], dim=1)
    refs, whole = ref[0].expand(4, 2), torch.ones(4, 2, dtype=torch.bool)
    chance = logp.detach().sum(1).exp()
    exact = torch.autograd.grad((logp.sum(1).exp() * (logp - refs).sum(1)).sum(), leaf, retain_graph=True)[0]
    pays = reference_kl(logp.detach(), refs, whole, beta=1.0)
    in_reward = torch.autograd.grad((chance * -pays * logp.sum(1)).sum(), leaf, retain_graph=True)[0]
    k2 = kl_to_reference(logp, refs, beta=1.0, estimator="k2")[0]
    in_loss = torch.autograd.grad((chance * k2.sum(1)).sum(), leaf)[0]
    torch.testing.assert_close(in_reward, exact)
    torch.testing.assert_close(in_loss[1:], exact[1:])
    assert abs(float(in_loss[0] - exact[0])) > 0.01


def test_the_sum_is_that_of_a_slow_oracle_and_an_empty_row_costs_nothing() -> None:
    rng = torch.Generator().manual_seed(1)
    old, ref = (-3 * torch.rand(5, 6, generator=rng, dtype=torch.float64) for _ in range(2))
    mask = torch.rand(5, 6, generator=rng) < 0.6
    mask[2] = False
    for name, value in {"k1": lambda x: x, "k2": lambda x: x * x / 2, "k3": lambda x: math.exp(-x) - 1 + x}.items():
        wanted = [
            -0.3 * math.fsum(value(float(old[i, t] - ref[i, t])) for t in range(6) if mask[i, t]) for i in range(5)
        ]
        found = reference_kl(old, ref, mask, beta=0.3, estimator=name)  # pyright: ignore[reportArgumentType]
        assert found.tolist() == pytest.approx(wanted, abs=1e-12)
        assert found[2] == 0


def test_far_from_the_reference_k3_is_bounded_and_a_nan_is_seen() -> None:
    one = torch.ones(1, 1, dtype=torch.bool)
    far = torch.tensor([[-90.0]])
    assert float(reference_kl(far, torch.tensor([[-0.1]]), one, beta=1.0, estimator="k3")) == -10.0
    assert reference_kl(far, torch.tensor([[math.nan]]), one, beta=1.0, estimator="k3").isnan()
    with pytest.raises(SettingError, match="k4"):
        kl_estimate(far, far, "k4", 20.0, 10.0, "reference_kl")


@pytest.mark.parametrize("place", ["loss", "reward"])
def test_the_recipe_puts_the_penalty_where_it_is_told_and_two_steps_are_finite(place: Any, tmp_path: Path) -> None:
    form = kl_estimators(estimator="k1" if place == "reward" else "k2", place=place)
    assert len(members(form.reward)) == (2 if place == "reward" else 1)
    form = loop_with(form, steps=2, prompts=4, samples=4, eval_every=0, save_every=0)
    with RunFolder(tmp_path / "run") as held:
        lines = list(train(Setup(form, Policy.load("table"), make("bandit,level=10"), held), lambda: None))
    assert all(math.isfinite(line["loss"]) for line in lines if line["kind"] == "step")


def test_the_recipe_refuses_another_place() -> None:
    with pytest.raises(SettingError, match="loss or reward"):
        build("kl-estimators", place="advantage")
    (form,) = build("kl-estimators", estimator="k3")
    assert isinstance(form, Train)
