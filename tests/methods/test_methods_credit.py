"""Credit components against worked examples and the properties that the formulas have."""

from __future__ import annotations

import inspect
import math
import statistics
from random import Random

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor

from truegain.core.errors import SettingError
from truegain.methods.credit import group_normalise

REWARDS = st.lists(st.integers(-8, 8).map(lambda r: r / 4), min_size=2, max_size=9)


def advantages(rewards: list[float], groups: list[int] | None = None, **knobs: object) -> list[float]:
    scores = torch.tensor(rewards, dtype=torch.float64)
    group = torch.tensor(groups or [0] * len(rewards))
    return group_normalise(scores, group, torch.ones(len(rewards), 1, dtype=torch.bool), **knobs).flatten().tolist()


# Scores 1, 0, 0, 0: mean 0.25, squared deviations 0.5625 + 3 * 0.0625 = 0.75; of the sample 0.75 / 3 = 0.25, so
# std 0.5 and A = 1.5, -0.5, ...; of the population 0.75 / 4, std 0.43301 and A = 1.73205, -0.57735.


@pytest.mark.parametrize(
    ("knobs", "wanted"),
    [
        ({}, [1.5, -0.5, -0.5, -0.5]),
        ({"ddof": 0}, [math.sqrt(3), *[-1 / math.sqrt(3)] * 3]),
        ({"std": "none"}, [0.75, -0.25, -0.25, -0.25]),
        ({"eps": 0.5}, [0.75, -0.25, -0.25, -0.25]),
    ],
)
def test_the_worked_example(knobs: dict[str, object], wanted: list[float]) -> None:
    assert advantages([1.0, 0.0, 0.0, 0.0], **knobs) == pytest.approx(wanted, abs=1e-5)


def test_the_batch_deviation_is_one_number_for_all_groups() -> None:
    # Groups (1, 0) and (4, 0), centred +-0.5 and +-2. All four: mean 1.25, deviations 0.0625 + 1.5625 + 7.5625 + 1.5625
    # = 10.75, of the sample 10.75 / 3, std 1.89297.
    found = advantages([1.0, 0.0, 4.0, 0.0], [0, 0, 1, 1], std="batch")
    assert found == pytest.approx([x / math.sqrt(10.75 / 3) for x in (0.5, -0.5, 2.0, -2.0)], abs=1e-5)


# Groups (1, 1, 1, 0) and (1, 0, 0, 0). As they are: squares 8 * 0.25 over 7, std 0.534522; centred: 2 * 0.75 over 7,
# std 0.462910. Of the whole batch the mean is 0.5.
EASY_AND_HARD = [1.0, 1.0, 1.0, 0.0, 1.0, 0.0, 0.0, 0.0]


@pytest.mark.parametrize(
    ("knobs", "wanted"),
    [
        ({"std": "batch"}, [0.4677] * 3 + [-1.4031, 1.4031] + [-0.4677] * 3),  # Lite PPO
        ({"std": "centred"}, [0.5401] * 3 + [-1.6202, 1.6202] + [-0.5401] * 3),  # DLER
        ({"std": "centred", "bound": 1.0}, [0.5401] * 3 + [-1.0, 1.0] + [-0.5401] * 3),
        ({"mean": "batch", "std": "batch"}, [0.9354] * 3 + [-0.9354, 0.9354] + [-0.9354] * 3),
        ({"mean": "batch", "std": "group"}, [1.0] * 3 + [-1.0, 1.0] + [-1.0] * 3),  # group std 0.5
        ({"mean": "batch", "std": "none"}, [0.5] * 3 + [-0.5, 0.5] + [-0.5] * 3),
    ],
)
def test_each_scope_of_mean_and_deviation(knobs: dict[str, object], wanted: list[float]) -> None:
    assert advantages(EASY_AND_HARD, [0] * 4 + [1] * 4, **knobs) == pytest.approx(wanted, abs=5e-5)


def test_seeupo_normalises_centred_rewards() -> None:
    # Rewards 1, 0, 0, 1 in one group, centred +-0.5: squares 4 * 0.25 over 3, A = 0.5 / 0.57735.
    found = advantages([1.0, 0.0, 0.0, 1.0], std="centred", bound=3.0)
    assert found == pytest.approx([0.866, -0.866, -0.866, 0.866], abs=1e-4)


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(-4, 4)), min_size=2, max_size=10))
def test_the_centred_deviation_gives_the_batch_mean_0_and_deviation_1(rows: list[tuple[int, int]]) -> None:
    found = advantages([r / 2 for _, r in rows], [g for g, _ in rows], std="centred", eps=1e-12)
    assume(any(found))
    assert statistics.fmean(found) == pytest.approx(0.0, abs=1e-6)
    assert statistics.stdev(found) == pytest.approx(1.0, abs=1e-6)


def test_a_group_of_equal_rewards_is_not_blown_up_by_another_mean() -> None:
    # Its own deviation is 0; over eps, the distance 0.25 to the batch's mean would become 250000.
    for singleton in ("zero", "raw"):
        found = advantages([1.0, 1.0, 1.0, 0.0], [0, 0, 1, 1], mean="batch", singleton=singleton)
        assert found[:2] == [0.0, 0.0] and max(map(abs, found)) < 2


@pytest.mark.parametrize(
    "knobs", [{"std": s, "mean": m} for s in ("group", "batch", "centred", "none") for m in ("group", "batch")]
)
def test_a_group_of_one_is_0_where_its_own_statistics_are_asked_for(knobs: dict[str, str]) -> None:
    found = advantages([3.0, 1.0, 0.0, 2.0], [0, 1, 1, 1], **knobs)
    assert all(map(math.isfinite, found)) and max(map(abs, found)) < 4
    assert (found[0] == 0.0) is ("group" in knobs.values())


def test_a_group_of_one_gets_zero_or_its_raw_reward() -> None:
    assert advantages([3.0, 1.0, 0.0], [0, 1, 1])[0] == 0.0
    raw = advantages([3.0, 1.0, 0.0], [0, 1, 1], singleton="raw")
    assert raw == pytest.approx([3.0, math.sqrt(0.5), -math.sqrt(0.5)], abs=1e-5)
    # Only its own deviation is missing then, and taken as 1: 3 - 4/3; the group's is 0.7071 around another mean.
    other = advantages([3.0, 1.0, 0.0], [0, 1, 1], mean="batch", singleton="raw")
    assert other == pytest.approx([5 / 3, -1 / 3 / math.sqrt(0.5), -4 / 3 / math.sqrt(0.5)], abs=1e-5)


def test_the_mask_decides_where_it_stands() -> None:
    mask = torch.tensor([[True, False, True], [False, False, False]])
    out = group_normalise(torch.tensor([1.0, 0.0]), torch.tensor([0, 0]), mask)
    assert (out != 0).tolist() == mask.tolist()


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(-8, 8)), min_size=1, max_size=12))
def test_it_equals_the_loop_over_groups(rows: list[tuple[int, int]]) -> None:
    groups, rewards = [g for g, _ in rows], [r / 3 for _, r in rows]
    found = advantages(rewards, groups, eps=1e-4)
    for (group, _), reward, advantage in zip(rows, rewards, found, strict=True):
        mates = [r for g, r in zip(groups, rewards, strict=True) if g == group]
        spread = statistics.stdev(mates) if len(mates) > 1 else 0.0
        assert advantage == pytest.approx((reward - statistics.fmean(mates)) / (spread + 1e-4), abs=1e-9)


@given(REWARDS)
def test_it_sums_to_zero_with_squares_of_size_minus_one(rewards: list[float]) -> None:
    assume(len(set(rewards)) > 1)
    found = advantages(rewards)
    assert sum(found) == pytest.approx(0.0, abs=1e-9)
    assert sum(a * a for a in found) == pytest.approx(len(rewards) - 1, rel=1e-4)


@given(st.floats(-1e6, 1e6, allow_nan=False, width=32), st.integers(2, 33))
def test_equal_rewards_give_exactly_zero(reward: float, size: int) -> None:
    for knobs in (
        {},
        {"std": "batch"},
        {"std": "centred"},
        {"std": "none"},
        {"mean": "batch"},
        {"eps": 1e-12},
        {"singleton": "raw"},
    ):
        out = group_normalise(
            torch.full((size,), reward), torch.zeros(size, dtype=torch.long), torch.ones(size, 1).bool(), **knobs
        )
        assert not out.any()


@given(REWARDS, st.floats(0.1, 10), st.floats(-5, 5))
def test_positive_affine_maps_of_a_groups_rewards_change_nothing(
    rewards: list[float], scale: float, shift: float
) -> None:
    mapped = [scale * r + shift for r in rewards]
    assert advantages(mapped, eps=1e-12) == pytest.approx(advantages(rewards, eps=1e-12), abs=1e-6)


@given(REWARDS, st.randoms(use_true_random=False))
def test_the_order_inside_a_group_is_inert(rewards: list[float], random: Random) -> None:
    order = list(range(len(rewards)))
    random.shuffle(order)
    found = advantages(rewards)
    assert advantages([rewards[i] for i in order]) == pytest.approx([found[i] for i in order], abs=1e-9)


def test_groups_do_not_touch_each_other() -> None:
    alone = advantages([1.0, 0.0, 2.0])
    beside = advantages([1.0, 50.0, 0.0, -7.0, 2.0], [0, 1, 0, 1, 0])
    assert [beside[i] for i in (0, 2, 4)] == pytest.approx(alone, abs=1e-12)


def test_a_nan_reward_spoils_its_own_group_only() -> None:
    found = advantages([math.nan, 1.0, 1.0, 0.0], [0, 0, 1, 1])
    assert [math.isnan(a) for a in found] == [True, True, False, False]


@pytest.mark.parametrize("knobs", [{"std": "groups"}, {"singleton": "one"}, {"mean": "none"}])
def test_an_unknown_choice_is_refused(knobs: dict[str, str]) -> None:
    # Without the tests' own type checker, which would be first to refuse it.
    with pytest.raises(SettingError, match=next(iter(knobs.values()))):
        inspect.unwrap(group_normalise)(torch.ones(2), torch.tensor([0, 0]), torch.ones(2, 1).bool(), **knobs)


def test_float32_and_float64_keep_their_dtype() -> None:
    for dtype in (torch.float32, torch.float64):
        out: Tensor = group_normalise(torch.ones(2, dtype=dtype), torch.tensor([0, 0]), torch.ones(2, 1).bool())
        assert out.dtype == dtype
