"""Thresholdout: the worked example, the budget, the noise, and a set that is not worn out."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import truegain.recipes  # noqa: F401
from truegain.core.errors import DataError, SettingError
from truegain.core.system import build
from truegain.methods.evaluation import Reusable, ReusableHoldout, thresholdout, thresholdout_study

UNIT = st.floats(0, 1)


def asked(state: Reusable, *pairs: tuple[float, float]) -> tuple[Reusable, list[float | None]]:
    answers: list[float | None] = []
    for train, holdout in pairs:
        state, answer = thresholdout(state, train, holdout)
        answers.append(answer)
    return state, answers


def test_the_worked_example() -> None:
    # No noise, T = 0.04, B = 1: 0.70 and 0.69 agree; 0.62 and 0.55 lie 0.07 apart, so the hold-out answers and the
    # budget is gone; the third question is refused.
    state, answers = asked(Reusable.begin(noise=0.0, budget=1), (0.70, 0.69), (0.62, 0.55), (0.55, 0.58))
    assert answers == [0.70, 0.55, None]
    assert (state.budget, state.asked) == (0, 3)


@given(st.lists(st.tuples(UNIT, UNIT), max_size=20))
def test_without_noise_an_endless_threshold_returns_the_training_mean_and_none_the_hold_outs(
    pairs: list[tuple[float, float]],
) -> None:
    _, blind = asked(Reusable.begin(threshold=math.inf, noise=0.0), *pairs)
    assert blind == [train for train, _ in pairs]
    # |a_h - a_t| > 0 fails only where both are equal, and then they are the same number.
    _, open_ = asked(Reusable.begin(threshold=0.0, noise=0.0), *pairs)
    assert open_ == [holdout for _, holdout in pairs]


@given(st.lists(st.tuples(UNIT, UNIT), max_size=40), st.integers(0, 5), st.integers(0, 99))
def test_the_budget_never_falls_below_zero_and_what_comes_after_it_is_refused(
    pairs: list[tuple[float, float]], budget: int, seed: int
) -> None:
    state = Reusable.begin(threshold=0.02, budget=budget, seed=seed)
    for train, holdout in pairs:
        before = state.budget
        state, answer = thresholdout(state, train, holdout)
        assert 0 <= state.budget <= before
        assert (answer is None) == (before == 0)
        assert answer is None or 0 <= answer <= 1
        # Either the training mean, or the hold-out was paid for.
        assert answer is None or answer == train or state.budget == before - 1


def test_the_same_seed_gives_the_same_answers_and_a_saved_state_goes_on_alike() -> None:
    pairs = [(0.5, 0.5 + n / 100) for n in range(20)]
    _, whole = asked(Reusable.begin(seed=7), *pairs)
    half, first = asked(Reusable.begin(seed=7), *pairs[:9])
    _, second = asked(Reusable(**json.loads(json.dumps(vars(half)))), *pairs[9:])
    assert [*first, *second] == whole
    assert asked(Reusable.begin(seed=8), *pairs)[1] != whole


def test_asking_again_does_not_average_the_noise_away_within_the_budget() -> None:
    state, answers = asked(Reusable.begin(threshold=0.0, noise=0.02, budget=50, seed=1), *[(0.2, 0.6)] * 200)
    told = [answer for answer in answers if answer is not None and answer != 0.2]
    assert len(told) == 50 and state.budget == 0
    # Laplace noise of scale 0.02 has deviation 0.028; its mean over 50 is not known better than to 0.004.
    assert np.std(told) == pytest.approx(0.02 * math.sqrt(2), rel=0.5)
    assert abs(np.mean(told) - 0.6) < 5 * 0.02 * math.sqrt(2) / math.sqrt(50)


def test_the_noise_has_the_scales_of_the_algorithm() -> None:
    # An answer from the hold-out is a_h + Lap(s): mean absolute deviation s. How often it speaks at a difference of
    # exactly T is one half, as the two noises on the threshold are symmetric.
    pairs = [(0.5, 0.54)] * 4000
    state, spoke = Reusable.begin(threshold=0.04, noise=0.01, budget=10**6, seed=3), list[float]()
    for train, holdout in pairs:
        before = state.budget
        state, answer = thresholdout(state, train, holdout)
        if state.budget < before:
            spoke.append(answer or 0.0)
    assert np.abs(np.array(spoke) - 0.54).mean() == pytest.approx(0.01, rel=0.15)
    assert 0.3 < len(spoke) / len(pairs) < 0.7


def test_rows_are_asked_through_questions_alone_and_every_question_is_written_down() -> None:
    rows = [{"right": float(n % 2)} for n in range(100)]
    holdout = ReusableHoldout(rows[:50], rows[50:], seed=2)
    answer = holdout.query(lambda row: row["right"], name="accuracy")
    assert answer == pytest.approx(0.5, abs=0.1)
    assert [line["name"] for line in holdout.log] == ["accuracy"]
    assert not [name for name in vars(holdout) if not name.startswith("_") and name != "log"]
    again = ReusableHoldout(rows[:50], rows[50:], resumed=json.loads(json.dumps(holdout.state)))
    assert again.state == holdout.state
    assert again.query(lambda row: 1.0) == holdout.query(lambda row: 1.0)


def test_what_cannot_be_answered_is_refused_in_one_line() -> None:
    state = Reusable.begin()
    for train, holdout in ((math.nan, 0.5), (0.5, 1.2), (-0.1, 0.5)):
        with pytest.raises(DataError, match=r"must lie in \[0, 1\]"):
            thresholdout(state, train, holdout)
    for wrong in ({"threshold": -0.1}, {"noise": -1.0}, {"budget": -1}):
        with pytest.raises(SettingError, match="must be 0 or more"):
            Reusable.begin(**wrong)
    with pytest.raises(DataError, match="a row or more"):
        ReusableHoldout([], [1])


def test_a_plain_hold_out_is_worn_out_and_a_reusable_one_is_not() -> None:
    # A tenth of the claim's study, so that it takes no second: the bias of the plain one is about sqrt(keep / rows).
    found = [thresholdout_study(seed=seed, rows=600, features=400, keep=60) for seed in (100, 101, 102)]
    mean = {name: float(np.mean([one[name] for one in found])) for name in found[0]}
    assert mean["naive"] > 0.57
    assert mean["naive fresh"] == pytest.approx(0.5, abs=0.03)
    assert mean["reusable"] < mean["naive"]


def test_the_recipe_is_a_study_with_its_knobs() -> None:
    (form,) = build("thresholdout-holdout", threshold=0.1, rows=200)
    record = form.function()
    assert set(record) == {"naive", "naive fresh", "reusable", "reusable fresh", "left"}
