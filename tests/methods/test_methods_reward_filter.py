"""Filters by rank within a prompt, and the R^2 by which one is chosen: worked example, oracle, properties, recipe."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from truegain.core.errors import DataError
from truegain.core.settings import loop_with
from truegain.methods.evaluation import reward_fit
from truegain.methods.reward import extreme_ranks
from truegain.policy.policy import Policy
from truegain.recipes.pf_ppo import pf_ppo
from truegain.tasks import make
from truegain.train.folder import RunFolder
from truegain.train.online import Setup, train

REWARDS = st.lists(st.sampled_from([-1.0, 0.0, 0.5, 2.0]), min_size=1, max_size=12)


def kept(rewards: list[float], groups: list[int], keys: list[int] | None = None, **knobs: Any) -> list[float]:
    keys = list(range(len(rewards))) if keys is None else keys
    found = extreme_ranks(torch.tensor(rewards), torch.tensor(groups), torch.tensor(keys), **{"step_index": 0, **knobs})
    return found.tolist()


def test_the_filters_keep_what_the_worked_example_keeps() -> None:
    scores, one = [0.1, 0.9, 0.4, 0.5, -0.3], [0] * 5
    assert kept(scores, one, keep="best") == [0, 1, 0, 0, 0]
    assert kept(scores, one, keep="best_worst") == [0, 1, 0, 0, 1]
    assert kept(scores, one, keep="all") == [1] * 5
    both = kept(scores, one, keep="best_random")
    assert both[1] == 1 and sum(both) == 2


def test_r_squared_is_that_of_the_worked_example() -> None:
    # All five bins: mean x 0.5, y 0.44; Sxx 0.68, Syy 0.652, Sxy 0.53: 0.2809 / 0.44336 = 0.63357.
    bins, real = np.array([0.0, 0.2, 0.5, 0.8, 1.0]), np.array([0.0, 0.5, 0.1, 0.6, 1.0])
    assert reward_fit(bins, real, np.ones(5), bins=0) == pytest.approx(0.63357, abs=1e-5)
    # Without the middle: Sxx 0.68, Syy 0.5075, Sxy 0.53: 0.2809 / 0.3451 = 0.81397.
    extremes = np.array([1.0, 1.0, 0.0, 1.0, 1.0])
    assert reward_fit(bins, real, extremes, bins=0) == pytest.approx(0.81397, abs=1e-5)


def slow(rewards: list[float], groups: list[int], keys: list[int]) -> list[float]:
    """Best and worst of each group by sorting it: higher reward first, then smaller key."""
    out = [0.0] * len(rewards)
    for g in set(groups):
        rows = sorted((i for i in range(len(groups)) if groups[i] == g), key=lambda i: (-rewards[i], keys[i]))
        out[rows[0]] = out[rows[-1]] = 1.0
    return out


@given(REWARDS, st.data())
def test_best_and_worst_are_those_of_a_sort_and_every_prompt_keeps_its_best(rewards: list[float], data: Any) -> None:
    groups = data.draw(st.lists(st.integers(0, 3), min_size=len(rewards), max_size=len(rewards)))
    keys = data.draw(st.permutations(range(len(rewards))))
    dense = [sorted(set(groups)).index(g) for g in groups]
    assert kept(rewards, dense, keys) == slow(rewards, dense, keys)
    best = kept(rewards, dense, keys, keep="best")
    for keep in ("best_worst", "best_random"):
        found = kept(rewards, dense, keys, keep=keep)
        assert all(a <= b for a, b in zip(best, found, strict=True))
        for g in set(dense):
            rows = [i for i in range(len(dense)) if dense[i] == g]
            assert sum(found[i] for i in rows) == min(2, len(rows))
            assert max(rewards[i] for i in rows) in [rewards[i] for i in rows if best[i]]


def test_the_other_row_is_drawn_evenly_and_anew_each_step() -> None:
    rewards, groups = [1.0, 0.0, 0.0, 0.5, 0.2] * 400, [g for g in range(400) for _ in range(5)]
    counts = torch.tensor(kept(rewards, groups, keep="best_random")).reshape(400, 5).sum(0)
    assert counts[0] == 400
    # 400 draws with a chance of 1/4: 4 standard errors are 35.
    assert all(abs(float(n) - 100) < 35 for n in counts[1:])
    assert kept(rewards, groups, keep="best_random") == kept(rewards, groups, keep="best_random")
    assert kept(rewards, groups, keep="best_random") != kept(rewards, groups, keep="best_random", step_index=1)


def test_a_nan_reward_is_kept_for_the_loop_to_refuse() -> None:
    assert kept([0.5, math.nan, 0.1], [0, 0, 0]) == [0, 1, 1]


def slow_fit(x: list[float], y: list[float], w: list[float], bins: int) -> float:
    low, high = min(x), max(x)
    sums: dict[int, list[float]] = {}
    for i in range(len(x)):
        place = i if not bins or high == low else min(int((x[i] - low) / (high - low) * bins), bins - 1)
        cell = sums.setdefault(place, [0.0, 0.0, 0.0])
        cell[0], cell[1], cell[2] = cell[0] + w[i], cell[1] + w[i] * x[i], cell[2] + w[i] * y[i]
    cells = [(t, a / t, b / t) for t, a, b in sums.values() if t > 0]
    total = sum(t for t, _, _ in cells)
    mx, my = sum(t * a for t, a, _ in cells) / total, sum(t * b for t, _, b in cells) / total
    xx, yy = sum(t * (a - mx) ** 2 for t, a, _ in cells), sum(t * (b - my) ** 2 for t, _, b in cells)
    return sum(t * (a - mx) * (b - my) for t, a, b in cells) ** 2 / (xx * yy)


@given(st.integers(0, 10_000), st.integers(0, 6))
def test_r_squared_equals_the_formula_and_lies_between_0_and_1(seed: int, bins: int) -> None:
    rng = np.random.default_rng(seed)
    x, y, w = rng.normal(size=30), rng.normal(size=30), rng.integers(0, 3, size=30) + 0.5
    if bins == 1:
        assert math.isnan(reward_fit(x, y, w, bins=1))
        return
    found = reward_fit(x, y, w, bins=bins)
    assert found == pytest.approx(slow_fit(x.tolist(), y.tolist(), w.tolist(), bins), rel=1e-9)
    assert -1e-12 <= found <= 1 + 1e-12
    assert reward_fit(3 * x + 1, -2 * y, 5 * w, bins=0) == pytest.approx(reward_fit(x, y, w, bins=0))


def test_a_straight_line_fits_wholly_and_what_cannot_be_fitted_is_said() -> None:
    x, one = np.array([0.0, 1.0, 3.0]), np.ones(3)
    assert reward_fit(x, 2 * x - 1, one) == pytest.approx(1.0)
    assert reward_fit(x, one, one) == 0.0
    assert math.isnan(reward_fit(one, x, one)) and math.isnan(reward_fit(x, x, np.array([1.0, 0.0, 0.0])))
    for bad in ((x, x, -one), (x, x, one * math.nan), (np.array([]), np.array([]), np.array([]))):
        with pytest.raises(DataError, match="reward_fit"):
            reward_fit(*bad)


@pytest.mark.parametrize("keep", ["best_worst", "best_random"])
def test_two_steps_train_on_two_rows_of_each_prompt(keep: str, tmp_path: Path) -> None:
    form = loop_with(
        pf_ppo(keep=keep),  # pyright: ignore[reportArgumentType]
        steps=2,
        prompts=4,
        eval_every=0,
        save_every=0,
    )
    with RunFolder(tmp_path / "run") as held:
        lines = list(train(Setup(form, Policy.load("table"), make("bandit,level=30"), held), lambda: None))
    steps = [line for line in lines if line["kind"] == "step"]
    # 2 of the 5 samples of each prompt
    assert all(math.isfinite(line["loss"]) and line["truegain/kept"] == pytest.approx(0.4) for line in steps)
