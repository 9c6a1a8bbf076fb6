"""Weights beyond the plain means: constants, the off-policy mask, the correction between learner and sampler."""

from __future__ import annotations

import inspect
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from truegain.core.errors import SettingError
from truegain.methods.objective import limit_mean, off_policy_mask, sequence_sum, token_sum, truncated_importance

SEEDS = st.integers(0, 999)
LENGTHS = st.lists(st.integers(0, 6), min_size=1, max_size=6).filter(any)


def mask_of(lengths: list[int]) -> Tensor:
    return torch.arange(max(lengths))[None, :] < torch.tensor(lengths)[:, None]


def noise(seed: int, *size: int) -> Tensor:
    return torch.randn(*size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# Losses [[1, 2, 3], [4, -, -]], a completion limit of 3: TRL's dr_grpo 10 / (2 * 3) = 1.6667; older verl, which
# did not divide by the rows, 10 / 3 = 3.3333; plain sum 10.


def test_constants_sum_the_worked_example() -> None:
    loss, mask = torch.tensor([[1.0, 2.0, 3.0], [4.0, 0.0, 0.0]]), mask_of([3, 1])
    assert float((loss * limit_mean(mask, max_tokens=3)).sum()) == pytest.approx(10 / 6)
    assert float((loss * token_sum(mask, divisor=3.0)).sum()) == pytest.approx(10 / 3)
    assert float((loss * token_sum(mask)).sum()) == 10.0


@given(LENGTHS, st.integers(6, 40))
def test_the_weight_of_a_token_does_not_depend_on_the_length_of_its_row(lengths: list[int], limit: int) -> None:
    mask = mask_of(lengths)
    rows = sum(n > 0 for n in lengths)
    for weight in (limit_mean(mask, max_tokens=limit), sequence_sum(mask, length=float(limit))):
        assert weight[mask].tolist() == pytest.approx([1 / (rows * limit)] * sum(lengths))
        assert not weight[~mask].any()


@given(LENGTHS, st.integers(1, 3))
def test_fully_masked_rows_change_no_constant(lengths: list[int], more: int) -> None:
    mask = mask_of(lengths)
    longer = torch.cat([mask, torch.zeros(more, mask.shape[1], dtype=torch.bool)])
    for weight in (lambda m: limit_mean(m, max_tokens=9), token_sum):
        assert torch.equal(weight(longer), torch.cat([weight(mask), torch.zeros(more, mask.shape[1])]))


@given(SEEDS, st.integers(1, 5))
def test_summed_over_micro_batches_the_token_sum_is_that_of_the_batch(seed: int, cut: int) -> None:
    mask, loss = mask_of([3, 1, 4, 2, 4, 1]), noise(seed, 6, 4)
    parts = sum(float((loss[rows] * token_sum(mask[rows], divisor=7.0)).sum()) for rows in torch.arange(6).split(cut))
    assert parts == pytest.approx(float((loss * token_sum(mask, divisor=7.0)).sum()), abs=1e-6)


# Off-policy mask, delta 0.5. Distances mean(engine - old): row 0 (1 + 0.2) / 2 = 0.6 and A < 0: out. Row 1 the same,
# A > 0: in. Row 2 (0.8 + 0.2) / 2 = 0.5, not above delta: in. Row 3 has one token at 0.4, and 9 beside it in padding.
ENGINE = torch.tensor([[1.0, 0.2], [1.0, 0.2], [0.8, 0.2], [0.4, 9.0]], dtype=torch.float64)
NEGATIVE = torch.tensor([[-1.0], [1.0], [-1.0], [-1.0]], dtype=torch.float64).expand(4, 2)


def test_the_off_policy_mask_drops_the_far_rows_that_would_be_punished() -> None:
    mask = mask_of([2, 2, 2, 1])
    kept, logs = off_policy_mask(torch.zeros_like(ENGINE), ENGINE, NEGATIVE, mask)
    assert kept.tolist() == [[0.0, 0.0], [1.0, 1.0], [1.0, 1.0], [1.0, 0.0]]
    assert torch.equal(logs["truegain/off_policy_kept"], kept)


def test_a_far_row_of_no_advantage_is_kept() -> None:
    far, mask = torch.full((1, 2), 3.0), mask_of([2])
    assert off_policy_mask(torch.zeros(1, 2), far, torch.zeros(1, 2), mask)[0].tolist() == [[1.0, 1.0]]


@given(SEEDS, st.floats(0.01, 2))
def test_the_off_policy_mask_follows_its_definition_and_never_drops_a_positive_advantage(
    seed: int, delta: float
) -> None:
    mask = mask_of([3, 1, 4, 2])
    old, engine, advantage = noise(seed, 4, 4), noise(seed + 1, 4, 4), noise(seed + 2, 4, 1).expand(4, 4)
    kept, _ = off_policy_mask(old, engine, advantage, mask, delta=delta)
    for row in range(4):
        chosen = [t for t in range(4) if mask[row, t]]
        distance = sum(float(engine[row, t] - old[row, t]) for t in chosen) / len(chosen)
        stays = float(advantage[row, 0]) >= 0 or distance <= delta
        assert kept[row].tolist() == [float(stays and t in chosen) for t in range(4)]


def test_a_token_the_engine_could_not_score_counts_as_no_distance() -> None:
    engine = torch.tensor([[math.nan, 0.8]], dtype=torch.float64)
    old, minus, mask = torch.zeros_like(engine), -torch.ones_like(engine), mask_of([2])
    assert off_policy_mask(old, engine, minus, mask, delta=0.5)[0].tolist() == [[1.0, 1.0]]  # 0.8 / 2 <= 0.5
    assert off_policy_mask(old, engine, minus, mask, delta=0.3)[0].tolist() == [[0.0, 0.0]]
    assert truncated_importance(old, engine, mask)[0].flatten().tolist() == pytest.approx([1.0, math.exp(-0.8)])


# Ratios exp(old - engine) of one row: 0.5, 1.5, 4; of the whole row 3. Bounds 0.6 to 2.
RATIOS = torch.tensor([[0.5, 1.5, 4.0]], dtype=torch.float64)


@pytest.mark.parametrize(
    ("level", "beyond", "floor", "cap", "wanted"),
    [
        ("token", "truncate", None, 2.0, [0.5, 1.5, 2.0]),
        ("token", "truncate", 0.6, 2.0, [0.6, 1.5, 2.0]),
        ("token", "mask", 0.6, 2.0, [0.0, 1.5, 0.0]),
        ("token", "mask", 0.6, None, [0.0, 1.5, 4.0]),
        ("token", "truncate", None, None, [0.5, 1.5, 4.0]),
        ("sequence", "truncate", None, 2.0, [2.0, 2.0, 2.0]),
        ("sequence", "truncate", None, 5.0, [3.0, 3.0, 3.0]),
        ("sequence", "mask", None, 2.0, [0.0, 0.0, 0.0]),
        ("sequence", "mask", None, 3.5, [3.0, 3.0, 3.0]),
    ],
)
def test_the_four_corrections_equal_the_worked_example(
    level: str, beyond: str, floor: float | None, cap: float | None, wanted: list[float]
) -> None:
    old, mask = RATIOS.log(), torch.ones(1, 3, dtype=torch.bool)
    engine = torch.zeros_like(old)
    found, logs = truncated_importance(old, engine, mask, level=level, beyond=beyond, floor=floor, cap=cap)
    assert found.flatten().tolist() == pytest.approx(wanted)
    assert torch.equal(logs["sampling/importance_sampling_ratio/mean"], found)


def test_an_engine_that_agrees_with_the_learner_changes_nothing() -> None:
    logp, mask = noise(3, 3, 4), mask_of([4, 2, 1])
    for level in ("token", "sequence"):
        for beyond in ("truncate", "mask"):
            assert torch.equal(truncated_importance(logp, logp, mask, level=level, beyond=beyond)[0], mask.double())


def test_without_bounds_the_correction_makes_the_expectation_that_of_the_learner() -> None:
    # Exact, over five tokens: sum_a q(a) w(a) f(a) = sum_a p(a) f(a).
    p, q, f = noise(1, 5).log_softmax(-1), noise(2, 5).log_softmax(-1), noise(3, 5)
    weight, _ = truncated_importance(p[None], q[None], torch.ones(1, 5, dtype=torch.bool), cap=None)
    assert float((q.exp() * weight[0] * f).sum()) == pytest.approx(float((p.exp() * f).sum()))


def test_an_unknown_level_is_refused() -> None:
    zeros, mask = torch.zeros(1, 1), torch.ones(1, 1, dtype=torch.bool)
    with pytest.raises(SettingError, match="level='row'"):
        inspect.unwrap(truncated_importance)(zeros, zeros, mask, level="row")
