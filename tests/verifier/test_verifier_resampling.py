"""Resampling against an imperfect acceptor: a worked example, an oracle that enumerates, and the paper's properties."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import truegain.recipes  # noqa: F401  (fills the systems)
from truegain.core.errors import DataError
from truegain.core.system import build
from truegain.methods.verifier import (
    best_attempts,
    resampling_accuracy,
    resampling_ceiling,
    resampling_reward,
    resampling_study,
)

RATE, PRIOR = np.array([0.87, 0.13]), np.array([0.58, 0.42])
CHANCE = st.floats(0, 1)
TYPES = st.lists(st.tuples(CHANCE, st.floats(0.1, 1)), min_size=1, max_size=4)


def of(types: Any) -> tuple[np.ndarray, np.ndarray]:
    rate, share = (np.array(x) for x in zip(*types, strict=True))
    return rate, share / share.sum()


def test_a_worked_example() -> None:
    # beta = .75 * .13 = .0975 and .75 * .87 = .6525; c = .87, .13; f = .0325, .2175. With V = -1 the first try earns
    # .58 * .8375 + .42 * -.0875 = .449; the second adds .58 * .0975 * .8375 - .42 * .6525 * .0875 = .0234, and so on.
    for wrong, wanted in (
        (-1.0, [0.449, 0.4724, 0.4614, 0.4516, 0.445, 0.4406]),
        (-2.0, [0.3388, 0.3007, 0.2506, 0.2155, 0.1923, 0.1772]),
    ):
        assert resampling_reward(RATE, PRIOR, wrong=wrong, attempts=6).round(4).tolist() == wanted
    found = resampling_accuracy(RATE, PRIOR, attempts=6).round(4).tolist()
    assert found == [0.5592, 0.644, 0.6721, 0.6877, 0.6976, 0.7041]
    assert [best_attempts(RATE, PRIOR, wrong=w) for w in (-1.0, -2.0)] == [2, 1]
    assert resampling_ceiling(np.array([0.13]), np.ones(1)) == pytest.approx(0.13 / 0.3475)


@given(types=TYPES, cpl=CHANCE, snd=CHANCE, wrong=st.floats(-3, 0), cost=st.floats(0, 0.2))
def test_it_agrees_with_a_slow_oracle(types: Any, cpl: float, snd: float, wrong: float, cost: float) -> None:
    rate, prior = of(types)
    knobs = {"completeness": cpl, "soundness": snd}
    found = resampling_reward(rate, prior, wrong=wrong, cost=cost, attempts=6, **knobs)
    for last in range(1, 7):
        total = 0.0
        for r, p in zip(rate.tolist(), prior.tolist(), strict=True):
            reached = 1.0
            for _ in range(last):
                accepted = r * cpl + (1 - r) * (1 - snd) * wrong
                total += p * reached * (accepted - cost)
                reached *= r * (1 - cpl) + (1 - r) * snd
        assert float(found[last - 1]) == pytest.approx(total, abs=1e-9)


@given(types=TYPES, cpl=CHANCE, snd=CHANCE)
def test_when_nothing_is_lost_by_a_wrong_answer_more_tries_never_harm_and_end_at_the_ceiling(
    types: Any, cpl: float, snd: float
) -> None:
    rate, prior = of(types)
    found = resampling_accuracy(rate, prior, completeness=cpl, soundness=snd, attempts=50)
    assert (np.diff(found) >= -1e-12).all()
    assert found[-1] <= resampling_ceiling(rate, prior, completeness=cpl, soundness=snd) + 1e-9


@given(types=TYPES, snd=st.floats(0, 0.99), wrongs=st.tuples(st.floats(-5, 0), st.floats(-5, 0)))
def test_a_dearer_wrong_answer_never_asks_for_more_tries(types: Any, snd: float, wrongs: tuple[float, float]) -> None:
    rate, prior = of(types)
    worse, better = (best_attempts(rate, prior, soundness=snd, wrong=w, attempts=60) for w in sorted(wrongs))
    assert worse <= better


@given(rate=st.floats(0.01, 1))
def test_a_perfect_verifier_reaches_everything_and_one_type_has_one_precision(rate: float) -> None:
    one, whole = np.array([rate]), np.ones(1)
    assert resampling_ceiling(one, whole, soundness=1.0) == pytest.approx(1.0)
    right = resampling_accuracy(one, whole, attempts=9)
    taken = right - resampling_reward(one, whole, wrong=-1.0, attempts=9) + right
    np.testing.assert_allclose(right / taken, right[0] / taken[0])


def test_a_verifier_that_accepts_nothing_ends_at_nothing() -> None:
    one = np.array([0.5])
    assert resampling_ceiling(one, np.ones(1), completeness=0.0, soundness=1.0) == 0.0
    assert best_attempts(one, np.ones(1), completeness=0.0, soundness=1.0) == 0


@pytest.mark.parametrize("bad", [{"soundness": 1.5}, {"completeness": -0.1}])
def test_what_is_no_chance_is_refused(bad: dict[str, float]) -> None:
    with pytest.raises(DataError, match="must lie in"):
        resampling_ceiling(RATE, PRIOR, **bad)
    with pytest.raises(DataError, match="sum to 1"):
        resampling_ceiling(RATE, np.array([0.5, 0.6]))


def test_numbers_that_are_none_shares_below_0_and_no_attempt_are_refused() -> None:
    with pytest.raises(DataError, match="chances"):
        resampling_ceiling(np.array([0.5, np.nan]), PRIOR)
    with pytest.raises(DataError, match="shares"):
        resampling_ceiling(RATE, np.array([1.5, -0.5]))
    with pytest.raises(DataError, match="attempts=0"):
        best_attempts(RATE, PRIOR, attempts=0)


def test_the_study_ends_at_its_ceiling_and_repeats() -> None:
    (form,) = build("resampling-limits")
    record = form.function()  # pyright: ignore[reportAttributeAccessIssue]
    assert record == form.function()  # pyright: ignore[reportAttributeAccessIssue]
    # 1000 tasks: a deviation of at most sqrt(.25 / 1000) = .016
    assert abs(record["weak_at_all"] - record["weak_ceiling"]) < 0.05
    assert record["weak_best"] < 10 < record["weak_best_free"]
    assert resampling_study(tasks=50, soundness=1.0, attempts=200, weak=(5, 5))["weak_at_all"] == 1.0
