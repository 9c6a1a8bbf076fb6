"""Segment sums against loops in plain Python."""

from __future__ import annotations

import math

import torch
from hypothesis import given
from hypothesis import strategies as st

from truegain.core import segments

ENTRIES = st.lists(st.tuples(st.integers(-1, 5), st.integers(-50, 50)), min_size=1, max_size=24)


def by_hand(ids: list[int], values: list[float]) -> dict[int, list[float]]:
    found: dict[int, list[float]] = {}
    for one, value in zip(ids, values, strict=True):
        if one >= 0:
            found.setdefault(one, []).append(value)
    return found


@given(ENTRIES)
def test_totals_means_and_counts_equal_the_loop(entries: list[tuple[int, int]]) -> None:
    ids, values = [i for i, _ in entries], [v / 4 for _, v in entries]
    tensor, held = torch.tensor(ids), torch.tensor(values, dtype=torch.float64)
    wanted, size = by_hand(ids, values), max([*ids, -1]) + 1
    assert segments.count(tensor) == size
    assert segments.total(held, tensor).tolist() == [sum(wanted.get(s, [])) for s in range(size)]
    mean = segments.mean(held, tensor).tolist()
    assert all(
        math.isclose(mean[s], sum(wanted[s]) / len(wanted[s]) if s in wanted else 0.0, abs_tol=1e-12)
        for s in range(size)
    )


@given(ENTRIES, st.integers(0, 3))
def test_ids_of_any_shape_sum_alike_and_an_asked_size_adds_empty_segments(
    entries: list[tuple[int, int]], more: int
) -> None:
    ids, values = torch.tensor([i for i, _ in entries]), torch.tensor([float(v) for _, v in entries])
    size = segments.count(ids) + more
    flat = segments.total(values, ids, size)
    assert flat.shape == (size,)
    assert torch.equal(segments.total(values[None, :, None], ids[None, :, None], size), flat)
    assert not flat[segments.count(ids) :].any()


@given(ENTRIES)
def test_spreading_gives_each_entry_its_own_and_zero_outside(entries: list[tuple[int, int]]) -> None:
    ids = torch.tensor([i for i, _ in entries])
    per = torch.arange(6, dtype=torch.float64) + 10
    assert segments.spread(per, ids).tolist() == [10.0 + i if i >= 0 else 0.0 for i, _ in entries]


@given(ENTRIES)
def test_dense_ids_have_no_gaps_and_keep_their_order(entries: list[tuple[int, int]]) -> None:
    ids = [i * 3 for i, _ in entries]
    order = sorted({i for i in ids if i >= 0})
    assert segments.dense(torch.tensor(ids)).tolist() == [order.index(i) if i >= 0 else -1 for i in ids]


def test_what_lies_outside_takes_no_part_even_as_nan() -> None:
    values, ids = torch.tensor([1.0, math.nan, 3.0]), torch.tensor([0, -1, 0])
    assert segments.total(values, ids).tolist() == [4.0]
    assert segments.mean(values, ids).tolist() == [2.0]


def test_nothing_inside_gives_nothing() -> None:
    outside = torch.full((2, 3), -1)
    assert segments.count(outside) == segments.count(torch.zeros(0, dtype=torch.long)) == 0
    assert segments.total(torch.ones(2, 3), outside).shape == (0,)
    assert segments.spread(torch.zeros(0), outside).tolist() == [[0.0] * 3] * 2
    assert segments.dense(outside).tolist() == outside.tolist()


def test_the_gradient_of_a_mean_is_one_over_the_size_and_zero_outside() -> None:
    values = torch.tensor([1.0, 5.0, 3.0, 7.0], requires_grad=True)
    ids = torch.tensor([0, 1, 0, -1])
    segments.spread(segments.mean(values, ids), ids)[0].backward()
    assert values.grad is not None
    assert values.grad.tolist() == [0.5, 0.0, 0.5, 0.0]


def test_dtypes_are_kept() -> None:
    ids = torch.tensor([0, 0, 1])
    for dtype in (torch.float32, torch.float64, torch.int64):
        assert segments.total(torch.ones(3).to(dtype), ids).dtype == dtype
    assert segments.mean(torch.ones(3, dtype=torch.float64), ids).dtype == torch.float64
