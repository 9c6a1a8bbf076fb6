"""The simplex that searches thresholds: against SciPy's, and as a fold."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from scipy.optimize import minimize

from truegain.core.errors import SettingError
from truegain.methods.reward import search_thresholds
from truegain.methods.reward._simplex import begin, spread, told


def bowl(x: list[float]) -> float:
    return -((x[0] - 0.4) ** 2) - 3 * (x[1] - 0.7) ** 2 - x[0] * x[1]


def banana(x: list[float]) -> float:
    return -((1 - x[0]) ** 2) - 5 * (x[1] - x[0] ** 2) ** 2


@pytest.mark.parametrize("value", [bowl, banana])
def test_the_simplex_tries_what_scipys_tries(value: Callable[[list[float]], float]) -> None:
    start, size, seen, state = [0.1, 0.2], 0.25, [], begin([0.1, 0.2], 0.25)
    for _ in range(40):
        seen.append(state["trial"])
        state = told(state, value(state["trial"]))
    theirs: list[list[float]] = []

    def noted(x: Any) -> float:
        theirs.append(list(x))
        return -value(list(x))

    corners = np.array([start, [start[0] + size, start[1]], [start[0], start[1] + size]])
    minimize(noted, start, method="Nelder-Mead", options={"initial_simplex": corners, "maxfev": 40})
    np.testing.assert_allclose(np.array(seen)[: len(theirs)], np.array(theirs)[:40], atol=1e-9)


def test_the_simplex_finds_the_top_in_one_two_and_three_dimensions() -> None:
    for top in ([0.3], [0.3, -0.2], [0.3, -0.2, 0.9]):
        state = begin([0.0] * len(top), 0.3)
        for _ in range(400):
            state = told(state, -sum((x - y) ** 2 for x, y in zip(state["trial"], top, strict=True)))
        assert state["points"][0] == pytest.approx(top, abs=1e-3)
        assert spread(begin([0.0], 0.1)) == math.inf


def test_thresholds_move_at_the_end_of_a_period_by_the_step_in_which_they_were_held() -> None:
    fold = search_thresholds(metric="gold", start=(0.5,), size=0.1, period=3)
    state, out = fold.init(), dict[str, Any]()
    steps = [(0.2, 0.5), (0.9, 0.7), (0.1, 0.9)]  # gold, mean of the reward: only the first is near 0.5
    for gold, mean in steps:
        state, out = fold.update(state, line={"gold": gold}, reward_parts=torch.tensor([[0.0, mean]]))
    assert out == {"multipliers.thresholds": (0.6,)}
    assert state["simplex"]["values"] == [0.2]
    for gold in (0.4, 0.5, 0.3):  # never near 0.6: the last counts
        state, out = fold.update(state, line={"gold": gold}, reward_parts=torch.tensor([[0.0, 0.1]]))
    assert sorted(state["simplex"]["values"]) == [0.2, 0.3]
    assert out["multipliers.thresholds"] == pytest.approx((0.7,))


def test_the_search_ends_at_its_best_thresholds_when_values_agree_and_waits_for_a_value() -> None:
    fold = search_thresholds(metric="gold", start=(0.5,), size=0.1, period=1, stop=0.01)
    parts = torch.tensor([[0.0, 0.5]])
    state, out = fold.update(fold.init(), line={}, reward_parts=parts)
    assert out == {} and state["last"] is None
    state, _ = fold.update(state, line={"gold": math.nan}, reward_parts=parts)
    state, _ = fold.update(state, line={"gold": 0.5}, reward_parts=parts)
    state, out = fold.update(state, line={"gold": 0.505}, reward_parts=parts)
    assert state["done"] and out == {"multipliers.thresholds": (0.6,)}
    assert fold.update(state, line={"gold": 9.0}, reward_parts=parts)[1] == {}


def test_the_search_climbs_to_the_point_beyond_which_a_proxy_hurts() -> None:
    fold = search_thresholds(metric="gold", start=(0.9, 0.2), size=-0.2, period=1, stop=1e-5)
    state, goals = fold.init(), [0.9, 0.2]
    for _ in range(150):
        gold = -abs(goals[0] - 0.6) - abs(goals[1] - 0.5)
        state, out = fold.update(state, line={"gold": gold}, reward_parts=torch.tensor([[0.0, *goals]]))
        goals = list(out.get("multipliers.thresholds", goals))
    assert state["simplex"]["points"][0] == pytest.approx([0.6, 0.5], abs=0.02)


@pytest.mark.parametrize("bad", [{"start": ()}, {"size": 0.0}, {"period": 0}, {"near": -1.0}, {"stop": -1.0}])
def test_knobs_out_of_bounds_are_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(SettingError, match="search_thresholds"):
        search_thresholds(**bad)
