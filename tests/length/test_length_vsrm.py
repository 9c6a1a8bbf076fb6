"""VSRM: what a step changed in the accuracy of a forced answer, and how flat steps share in what comes."""

from __future__ import annotations

import inspect
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from length_runs import two_steps
from torch import Tensor

import truegain.recipes  # noqa: F401  registers them
from truegain.core.component import spec_of
from truegain.core.errors import SettingError, WiringError
from truegain.core.forms import members
from truegain.core.system import build
from truegain.methods.credit import accuracy_gains
from truegain.methods.credit._accuracy_gains import step_rewards
from truegain.train.online import check

SHARES = st.lists(st.sampled_from([0.0, 0.2, 0.4, 0.6, 0.8, 1.0]), min_size=0, max_size=9)
NAN = float("nan")


def rewards(accuracy: list[float], discount: float = 0.7, lookahead: int = 4) -> list[float]:
    return step_rewards(accuracy, discount, lookahead, 1e-5)


def credit_of(accuracy: list[list[float]], step: Tensor, **knobs: Any) -> Tensor:
    table = torch.tensor(accuracy, dtype=torch.float64).reshape(len(accuracy), -1)
    return accuracy_gains(table, step, step >= 0, **knobs)[0]


def test_the_worked_example_of_the_catalog() -> None:
    # d = 0, 0, .6, -.2, 0. Step 0: the next change is two steps on, .6 * .7^2 = .294; step 1: .6 * .7 = .42; step 4 is
    # flat to the end: (a_5 - a_4) * .7^0 = 0.
    assert rewards([0.2, 0.2, 0.2, 0.8, 0.6, 0.6]) == pytest.approx([0.294, 0.42, 0.6, -0.2, 0.0])


def oracle(a: list[float], gamma: float, limit: int) -> list[float]:
    """The formula as it is written, index by index."""
    count, out = len(a) - 1, []
    for j in range(max(count, 0)):
        if abs(a[j + 1] - a[j]) >= 1e-5:
            out.append(a[j + 1] - a[j])
            continue
        k, s = j + 1, 0
        while s < limit and k < count and abs(a[k + 1] - a[k]) < 1e-5:
            k, s = k + 1, s + 1
        if s == limit:
            out.append(0.0)
        elif k < count:
            out.append((a[k + 1] - a[k]) * gamma ** (k - j))
        else:
            out.append((a[count] - a[j]) * gamma ** (count - j - 1))
    return out


@given(accuracy=SHARES, discount=st.floats(0, 1), lookahead=st.integers(0, 5))
def test_step_rewards_agree_with_a_slow_oracle_and_are_bounded_by_the_largest_change(
    accuracy: list[float], discount: float, lookahead: int
) -> None:
    found = rewards(accuracy, discount, lookahead)
    assert found == pytest.approx(oracle(accuracy, discount, lookahead))
    most = max((abs(b - a) for a, b in pairwise(accuracy)), default=0.0)
    assert all(abs(r) <= most + 1e-9 for r in found)


@given(st.lists(st.integers(0, 100), min_size=2, max_size=8, unique=True))
def test_without_flat_steps_they_telescope(values: list[int]) -> None:
    accuracy = [v / 100 for v in values]
    assert sum(rewards(accuracy)) == pytest.approx(accuracy[-1] - accuracy[0])


@given(accuracy=SHARES)
def test_no_discount_or_no_lookahead_are_plain_differences(accuracy: list[float]) -> None:
    plain = [b - a for a, b in pairwise(accuracy)]
    assert rewards(accuracy, discount=0.0) == pytest.approx(plain)
    assert rewards(accuracy, lookahead=0) == pytest.approx(plain)


def test_a_flat_tail_earns_exactly_nothing_and_a_later_drop_is_felt_before() -> None:
    assert rewards([0.4, 0.8, 0.8, 0.8])[1:] == [0.0, 0.0]
    assert rewards([0.8, 0.8, 0.2])[0] == pytest.approx(-0.6 * 0.7)
    assert rewards([0.2] * 5 + [1.0], lookahead=2)[:2] == [0.0, 0.0], "further off than the lookahead"


@given(seed=st.integers(0, 500), gamma=st.sampled_from([0.0, 0.5, 1.0]))
def test_credit_is_the_sum_to_go_of_rewards_on_first_tokens(seed: int, gamma: float) -> None:
    rng = torch.Generator().manual_seed(seed)
    step = torch.randint(0, 2, (3, 9), generator=rng).cumsum(1)
    step = torch.where(torch.rand(3, 9, generator=rng) < 0.2, -1, step)
    table = (torch.rand(3, 10, generator=rng, dtype=torch.float64) * 5).round() / 5
    found = accuracy_gains(table, step, step >= 0, gamma=gamma)[0]
    for i, ids in enumerate(step.tolist()):
        chosen = [t for t, s in enumerate(ids) if s >= 0]
        order = sorted({ids[t] for t in chosen})
        earned = dict.fromkeys(chosen, 0.0)
        for s, value in zip(order[1:], oracle([float(table[i, s]) for s in order], 0.7, 4), strict=False):
            first = ids.index(s)
            if first != chosen[-1]:
                earned[first] = value
        to_go = 0.0
        for t in reversed(range(9)):
            if t in earned:
                to_go = earned[t] + gamma * to_go
            assert float(found[i, t]) == pytest.approx(to_go if t in earned else 0.0, abs=1e-9)


def test_an_idle_step_before_a_gain_is_paid_beside_it_unless_the_discount_is_0() -> None:
    # By hand, returns from step 1 on: straight .2 -> .8 earns .6; idling once first .7 * .6 + .6 = 1.02, as published.
    # Without shares both are a_J - a_0 = .6: the sum of differences telescopes.
    straight, idle = torch.tensor([[0, 1, 1, 1]]), torch.tensor([[0, 1, 2, 2]])
    assert float(credit_of([[0.2, 0.8]], straight)[0, 1]) == pytest.approx(0.6)
    assert float(credit_of([[0.2, 0.2, 0.8]], idle)[0, 1]) == pytest.approx(1.02)
    assert float(credit_of([[0.2, 0.2, 0.8]], idle, discount=0.0)[0, 1]) == pytest.approx(0.6)


def test_the_last_token_carries_the_outcome_alone() -> None:
    # Step 1 begins at the row's last token, whose reward the published code overwrites with the outcome.
    assert credit_of([[0.0, 1.0]], torch.tensor([[0, 0, 1]])).tolist() == [[0.0, 0.0, 0.0]]
    assert credit_of([[0.0, 1.0]], torch.tensor([[0, 0, 1, 1]])).tolist() == [[1.0, 1.0, 1.0, 0.0]]


def test_unknown_accuracies_change_nothing_and_rows_with_fewer_than_two_steps_get_nothing() -> None:
    step = torch.arange(4)[None].repeat(3, 1)
    known = credit_of([[0.2, 0.2, 0.8, 0.8]] * 3, step, gamma=0.0)
    gaps = credit_of([[NAN, 0.2, 0.8, NAN], [0.2, NAN, 0.8, NAN], [NAN] * 4], step, gamma=0.0)
    torch.testing.assert_close(gaps[:2], known[:2])
    assert not gaps[2].any()
    assert not credit_of([[0.5]], torch.tensor([[0, 0, -1]])).any()
    assert credit_of([[]], torch.zeros(1, 0, dtype=torch.long)).shape == (1, 0)
    assert not credit_of([[]], torch.full((1, 3), -1)).any()


@pytest.mark.parametrize("knobs", [{"discount": 1.1}, {"gamma": -0.1}, {"lookahead": -1}, {"tolerance": -1.0}])
def test_knobs_out_of_bounds_are_refused(knobs: dict[str, Any]) -> None:
    with pytest.raises(SettingError, match="accuracy_gains"):
        inspect.unwrap(accuracy_gains)(torch.ones(1, 1), torch.zeros(1, 1).long(), torch.ones(1, 1).bool(), **knobs)


def test_beside_gae_the_gains_are_what_gae_makes_of_the_same_rewards() -> None:
    # delta_t = r_t + V_{t+1} - V_t and A_t = delta_t + lam A_{t+1} are linear in r: by hand for r = (0, .6, 0, 1),
    # lam .5 and V = 0: 1 at the end, then .5, .6 + .25 = .85, .425; of which the outcome's part is 1, .5, .25, .125.
    step = torch.tensor([[0, 1, 1, 1]])
    gains = credit_of([[0.2, 0.8]], step, gamma=0.5)[0]
    assert (gains + torch.tensor([0.125, 0.25, 0.5, 1.0])).tolist() == pytest.approx([0.425, 0.85, 0.5, 1.0])


@pytest.mark.parametrize("estimator", ["reinforce-pp", "ppo"])
def test_two_steps_are_finite(tmp_path: Path, estimator: str) -> None:
    lines = two_steps(tmp_path / "run", "vsrm", estimator=estimator, samples=2)
    assert all("truegain/flat_steps" in line for line in lines)


def test_the_recipe_probes_before_it_credits_and_refuses_what_it_does_not_know() -> None:
    (form,) = build("vsrm", discount=0.5, samples=3)
    assert [spec_of(m).name for m in members(form.terms[0].credit)] == ["return_to_go", "accuracy_gains", "whiten"]
    assert spec_of(form.segment["step"]).name == "by_reflection" and form.loop.samples == 1
    with pytest.raises(SettingError, match="estimator"):
        build("vsrm", estimator="a2c")

    class Unchecked:
        name, supplies = "unchecked", ("score",)

    with pytest.raises(WiringError, match="needs column 'correct', which task 'unchecked' does not supply"):
        check(form, Unchecked())  # pyright: ignore[reportArgumentType]
