"""Multipliers of named rewards, the advantages that they mix, budgets as indicators: examples, oracle, properties."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from truegain.core.errors import SettingError, WiringError
from truegain.core.forms import Train, members
from truegain.core.settings import loop_with, with_setting
from truegain.core.system import build
from truegain.methods.credit import group_normalise, weighted_rewards
from truegain.methods.length import within_budget
from truegain.methods.reward import multipliers
from truegain.policy.policy import Policy
from truegain.tasks import make
from truegain.train.folder import RunFolder
from truegain.train.online import Setup, check, train

NUMBERS = st.lists(st.floats(-3, 3), min_size=2, max_size=4)


def told(fold: multipliers, z: list[float], means: list[float]) -> tuple[dict[str, Any], tuple[float, ...]]:
    parts = torch.tensor([[0.0, *means]], dtype=torch.float64)
    state, out = fold.update(fold.init() | {"z": z}, reward_parts=parts)
    return state, out[fold.setting]


def test_multipliers_and_mixed_advantage_are_those_of_the_worked_example() -> None:
    fold = multipliers(thresholds=(0.5, 0.5), squash="tanh", lr=0.1)
    first, *others = fold.weights([0.5, -0.5])
    # tanh(0.5) = 0.46212; n - sum = 2 - 0; 2 * -0.3 + 0.46212 * 1.0 - 0.46212 * 0.2 = -0.23031.
    assert others == pytest.approx([0.46212, -0.46212], abs=1e-5)
    assert first * -0.3 + others[0] * 1.0 + others[1] * 0.2 == pytest.approx(-0.23031, abs=1e-5)
    # z - 0.1 * (1 - 0.46212^2) * (0.1, -0.05) = 0.5 - 0.0078645, -0.5 + 0.0039322.
    state, _ = told(fold, [0.5, -0.5], [0.6, 0.45])
    assert state["z"] == pytest.approx([0.49214, -0.49607], abs=1e-5)


def test_the_mixed_advantage_is_the_weighted_sum_of_each_rewards_own() -> None:
    parts = torch.tensor([[-0.1, 1.0, 0.0], [-0.2, 0.0, 0.0], [-0.3, 1.0, 1.0], [0.0, 0.0, 1.0]], dtype=torch.float64)
    group, mask = torch.tensor([0, 0, 1, 1]), torch.ones(4, 2, dtype=torch.bool)
    found = weighted_rewards(parts, group, mask, weights=(2.0, -0.5, 0.25))
    # Group 1's third reward is equal in both rows: it adds nothing there.
    parts_own = [group_normalise(parts[:, k], group, mask) for k in range(3)]
    torch.testing.assert_close(found, 2 * parts_own[0] - 0.5 * parts_own[1] + 0.25 * parts_own[2])
    assert not parts_own[2].any()


def slow_mix(parts: list[list[float]], group: list[int], weights: list[float]) -> list[float]:
    """From the formula, row by row."""
    out: list[float] = []
    for i, own in enumerate(group):
        total = 0.0
        for k, weight in enumerate(weights):
            near = [parts[j][k] for j in range(len(parts)) if group[j] == own]
            mean = math.fsum(near) / len(near)
            if len(near) > 1 and any(x != near[0] for x in near):
                deviation = math.sqrt(math.fsum((x - mean) ** 2 for x in near) / (len(near) - 1))
                total += weight * (parts[i][k] - mean) / (deviation + 1e-6)
        out.append(total)
    return out


@given(st.integers(0, 10_000), st.lists(st.floats(-2, 2), min_size=3, max_size=3))
def test_the_mix_equals_the_formula_written_out(seed: int, weights: list[float]) -> None:
    rng = torch.Generator().manual_seed(seed)
    parts = torch.randn(9, 3, generator=rng, dtype=torch.float64).round(decimals=1)
    group = torch.randint(0, 4, (9,), generator=rng)
    found = weighted_rewards(parts, group, torch.ones(9, 1, dtype=torch.bool), weights=tuple(weights))
    assert found[:, 0].tolist() == pytest.approx(slow_mix(parts.tolist(), group.tolist(), weights), abs=1e-7)


def test_a_reward_of_weight_0_may_be_nan_and_a_lone_row_or_an_empty_one_gets_nothing() -> None:
    parts = torch.tensor([[math.nan, 1.0], [0.0, 0.0], [1.0, 5.0], [0.5, 0.5]])
    mask = torch.tensor([[True], [True], [True], [False]])
    found = weighted_rewards(parts, torch.tensor([0, 0, 1, 0]), mask, weights=(0.0, 1.0))
    assert found.isfinite().all() and found[2] == 0 and found[3] == 0
    assert weighted_rewards(parts, torch.tensor([0, 0, 1, 0]), mask)[0].isnan()
    with pytest.raises(WiringError, match="3 weights for 2 named rewards"):
        weighted_rewards(parts, torch.tensor([0, 0, 1, 0]), mask, weights=(1.0, 1.0, 1.0))


@given(NUMBERS, st.sampled_from(["sigmoid", "tanh", "clamp", "softmax"]))
def test_a_reward_above_its_threshold_loses_weight_and_one_below_gains(z: list[float], squash: Any) -> None:
    fold = multipliers(thresholds=(0.5,) * len(z), squash=squash)
    above, _ = told(fold, z, [0.7] * len(z))
    below, _ = told(fold, z, [0.3] * len(z))
    for before, high, low in zip(z, above["z"], below["z"], strict=True):
        before = max(before, 0.0) if squash == "clamp" else before
        assert high <= before <= low or squash == "clamp"
    assert all(x < y or squash == "clamp" for x, y in zip(above["z"], below["z"], strict=True))
    same, _ = told(fold, z, [0.5] * len(z))
    assert same["z"] == pytest.approx([max(x, 0.0) if squash == "clamp" else x for x in z])


@given(NUMBERS)
def test_squashed_multipliers_keep_their_ranges_and_the_first_weight_takes_the_rest(z: list[float]) -> None:
    n = len(z)
    for squash, low, high, total in (("sigmoid", 0, 1, n), ("tanh", -1, 1, n), ("softmax", 0, 1, 1)):
        first, *others = multipliers(thresholds=(0.0,) * n, squash=squash).weights(z)  # pyright: ignore[reportArgumentType]
        assert all(low < x < high for x in others)
        assert first + sum(others) == pytest.approx(total)
    assert multipliers(thresholds=(0.0,) * n, squash="clamp").weights(z) == (1.0, *[max(x, 0.0) for x in z])


def test_multipliers_of_0_leave_the_first_reward_alone_scaled_by_their_number() -> None:
    assert multipliers(thresholds=(0.5, 0.5), squash="tanh").first_weights == (2.0, 0.0, 0.0)


def test_constraints_that_hold_for_long_hand_the_weight_back_and_none_overflows() -> None:
    fold = multipliers(thresholds=(0.95, 0.95), squash="softmax", lr=1.0)
    state = dict(fold.init())
    for _ in range(300):
        state, _ = fold.update(state, reward_parts=torch.tensor([[0.2, 1.0, 1.0]]))
    weights = fold.weights(state["z"])
    assert weights[0] > 0.99 and sum(weights) == pytest.approx(1.0)
    far = fold.weights([2000.0, -15.0])
    assert far[1] > 0.99 and all(math.isfinite(x) for x in far)


def test_the_bootstrap_constraint_lends_its_multiplier_to_the_task() -> None:
    weights = multipliers(thresholds=(0.9, 0.2), squash="softmax", bootstrap=1).weights([2.0, 3.0])
    assert weights[0] == weights[2] > weights[1]
    assert multipliers(thresholds=(0.9, 0.2), squash="softmax", bootstrap=1, base=9.0).weights([2.0, 3.0])[0] > 0.9


def test_momentum_adds_a_share_of_the_last_step() -> None:
    fold = multipliers(thresholds=(0.0,), squash="clamp", momentum=0.5, lr=0.1, start=1.0)
    state, _ = fold.update(fold.init(), reward_parts=torch.tensor([[0.0, 1.0]]))
    state, _ = fold.update(state, reward_parts=torch.tensor([[0.0, 1.0]]))
    # 1 - 0.1 * 1 - 0.1 * (0.5 + 1)
    assert state["z"] == pytest.approx([0.75])


def test_what_is_not_finite_moves_nothing_and_wrong_numbers_are_refused() -> None:
    fold = multipliers(thresholds=(0.5, 0.5))
    state, _ = told(fold, [0.3, 0.3], [math.nan, 0.7])
    assert state["z"][0] == 0.3 and state["z"][1] < 0.3
    assert fold.update(fold.init(), reward_parts=torch.zeros(0, 3)) == (fold.init(), {})
    with pytest.raises(WiringError, match="2 thresholds for 2 named rewards"):
        fold.update(fold.init(), reward_parts=torch.zeros(4, 2))
    for bad in ({"momentum": 1.0}, {"lr": -0.1}, {"thresholds": ()}, {"bootstrap": 1}):
        with pytest.raises(SettingError, match="multipliers"):
            multipliers(**bad)  # pyright: ignore[reportArgumentType]


def test_a_budget_is_kept_by_a_row_that_ends_within_it() -> None:
    lengths = torch.tensor([0, 3, 4, 3])
    mask = torch.arange(5) < lengths[:, None]
    truncated = torch.tensor([False, False, False, True])
    assert within_budget(mask, truncated, share=0.6, max_tokens=5).tolist() == [1.0, 1.0, 0.0, 0.0]
    with pytest.raises(SettingError, match="share=0"):
        within_budget(mask, truncated, share=0.0, max_tokens=5)


# The recipes


@pytest.mark.parametrize(
    ("name", "knobs"),
    [
        ("constrained-rlhf", {}),
        ("constrained-rlhf", {"equality": False, "search": "rewards/outcome/mean"}),
        ("direct-behaviour-specification", {}),
        ("direct-behaviour-specification", {"success": 0.2}),
    ],
)
def test_two_steps_on_tiny_are_finite_and_set_the_weights(name: str, knobs: dict[str, Any], tmp_path: Path) -> None:
    (form,) = build(name, **knobs)
    form = loop_with(form, steps=2, prompts=3, samples=4, max_tokens=12, eval_every=0, save_every=0)
    with RunFolder(tmp_path / "run") as held:
        lines = list(train(Setup(form, Policy.load("tiny"), make("add"), held), lambda: None))
    steps = [line for line in lines if line["kind"] == "step"]
    weights = [line["set/credit.weighted_rewards.weights"] for line in steps]
    assert all(math.isfinite(line["loss"]) for line in steps) and weights[0] != weights[1]
    assert isinstance(form, Train)
    first = members(form.fold)[0]().first_weights
    assert len(first) == len(members(form.reward)) == len(weights[0])
    assert with_setting(form, "weighted_rewards.weights", weights[0]) != form


@pytest.mark.parametrize("name", ["constrained-rlhf", "direct-behaviour-specification"])
def test_a_task_without_the_column_is_refused_by_name(name: str) -> None:
    (form,) = build(name)
    assert isinstance(form, Train)
    with pytest.raises(WiringError, match=r"well_formed needs column 'answered'.*bandit.*checker"):
        check(form, make("bandit"))
