"""Penalties that only right answers pay: GRPO-lambda's on the best solved groups, ARLCP's on reflections and length."""

from __future__ import annotations

import inspect
import math
import statistics
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from length_runs import two_steps
from torch import Tensor

import truegain.recipes  # noqa: F401  registers them
from truegain.core.component import given_knobs, spec_of
from truegain.core.errors import SettingError, WiringError
from truegain.core.forms import members
from truegain.core.system import build
from truegain.core.types import Problem, Rollout
from truegain.methods.length import count_reflections, reflection_and_length, relative_length
from truegain.tasks import make
from truegain.train.online import check

ROWS = st.lists(st.tuples(st.booleans(), st.integers(0, 30), st.integers(0, 3)), min_size=1, max_size=14)


def mask_of(lengths: list[int]) -> Tensor:
    return torch.arange(max([*lengths, 1])) < torch.tensor(lengths)[:, None]


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def reward(right: list[float], lengths: list[int], group: list[int], **knobs: Any) -> list[float]:
    """1 for a right answer, less its penalty."""
    paid, _ = relative_length(torch.tensor(right, dtype=torch.float64), torch.tensor(group), mask_of(lengths), **knobs)
    return [r + p for r, p in zip(right, paid.tolist(), strict=True)]


def test_the_worked_example_of_the_catalog() -> None:
    # Right lengths 100, 200, 300: mean 200, population deviation 81.65, z = -1.2247, 0, 1.2247 and their sigmoids
    # .2271, .5, .7729; 1 - .2 of each. The wrong one pays nothing.
    found = reward([1, 1, 1, 0], [100, 200, 300, 50], [0, 0, 0, 0])
    assert found == pytest.approx([0.95458, 0.9, 0.84542, 0.0], abs=1e-5)


def oracle(right: list[bool], lengths: list[int], group: list[int], alpha: float, share: float) -> list[float]:
    names = sorted(set(group))
    places = {g: [i for i, own in enumerate(group) if own == g] for g in names}
    accuracy = {g: sum(right[i] for i in rows) / len(rows) for g, rows in places.items()}
    best = sorted(names, key=lambda g: -accuracy[g])[: math.ceil(round(share * len(names), 9))]
    out: list[float] = []
    for i, g in enumerate(group):
        own = [lengths[j] for j in places[g] if right[j]]
        if not right[i] or g not in best:
            out.append(float(right[i]))
            continue
        out.append(1 - alpha * sigmoid((lengths[i] - statistics.mean(own)) / (statistics.pstdev(own) + 1e-7)))
    return out


@given(rows=ROWS, alpha=st.floats(0, 1), share=st.sampled_from([0.0, 0.2, 0.5, 0.6, 1.0]))
def test_it_agrees_with_a_slow_oracle(rows: list[tuple[bool, int, int]], alpha: float, share: float) -> None:
    right, lengths = [r for r, _, _ in rows], [n for _, n, _ in rows]
    order = sorted({g for _, _, g in rows})
    group = [order.index(g) for _, _, g in rows]
    found = reward([float(r) for r in right], lengths, group, alpha=alpha, share=share)
    assert found == pytest.approx(oracle(right, lengths, group, alpha, share), abs=1e-6)
    assert all((1 - alpha - 1e-9 <= f <= 1) if r else f == 0 for f, r in zip(found, right, strict=True))


def test_share_0_is_the_plain_outcome_and_share_1_penalises_every_group() -> None:
    right, lengths, group = [1.0, 1.0, 1.0, 0.0, 1.0], [2, 4, 3, 9, 5], [0, 0, 1, 1, 1]
    assert reward(right, lengths, group, share=0.0) == right
    assert all(r < 1 for r, ok in zip(reward(right, lengths, group), right, strict=True) if ok)


def test_only_the_best_solved_groups_pay_and_their_number_is_rounded_up() -> None:
    right = [1.0, 1.0, 1.0, 0.0, 0.0, 1.0]
    found = reward(right, [1, 3, 1, 3, 1, 3], [0, 0, 1, 1, 2, 2], share=0.2)
    assert found[:2] == [pytest.approx(1 - 0.2 * sigmoid(-1), abs=1e-6), pytest.approx(1 - 0.2 * sigmoid(1), abs=1e-6)]
    assert found[2:] == right[2:], "groups of half the accuracy keep their outcome"
    # 0.2 of 15 groups are 3, though 0.2 * 15 is a little more in floating point.
    ones = [1.0] * 15
    assert sum(r < 1 for r in reward(ones, [1] * 15, list(range(15)), share=0.2)) == 3


def test_among_right_rows_of_a_group_shorter_never_earns_less() -> None:
    lengths = [7, 3, 3, 12, 1]
    found = reward([1.0] * 5, lengths, [0] * 5)
    by_length = [value for _, value in sorted(zip(lengths, found, strict=True))]
    assert by_length == sorted(by_length, reverse=True)


def test_one_right_row_equal_lengths_and_empty_rows_cost_half_and_no_right_row_nothing() -> None:
    assert reward([1, 0], [5, 9], [0, 0]) == pytest.approx([0.9, 0])
    assert reward([1, 1, 1], [5, 5, 5], [0, 0, 0]) == pytest.approx([0.9] * 3)
    assert reward([1, 1], [0, 0], [0, 1]) == pytest.approx([0.9] * 2)
    assert reward([0, 0], [5, 9], [0, 0]) == [0, 0]


@pytest.mark.parametrize("knobs", [{"alpha": -0.1}, {"share": 1.5}, {"share": -0.1}])
def test_knobs_of_the_penalty_out_of_bounds_are_refused(knobs: dict[str, float]) -> None:
    with pytest.raises(SettingError, match="relative_length"):
        reward([1.0], [1], [0], **knobs)


# ARLCP


def both(right: list[float], said: list[float], lengths: list[int], group: list[int], **knobs: Any) -> list[float]:
    paid = reflection_and_length(
        torch.tensor(right, dtype=torch.float64), torch.tensor(said, dtype=torch.float64), torch.tensor(group),
        mask_of(lengths), **knobs,
    )  # fmt: skip
    return [r + p for r, p in zip(right, paid.tolist(), strict=True)]


def test_the_worked_example_of_arlcp_in_both_deviations() -> None:
    # z of 10, 50, 90 and of 10, 30, 50 is -1, 0, 1 by the sample's deviation: 1 - .2 * (.26894, .5, .73106). The
    # catalog has the population's, z = 1.2247; the published code has the sample's (statistics.stdev).
    args = ([1, 1, 1, 0], [10, 50, 90, 20], [10, 30, 50, 20], [0, 0, 0, 0])
    assert both(*args) == pytest.approx([0.946212, 0.9, 0.853788, 0.0], abs=1e-5)
    assert both(*args, ddof=0) == pytest.approx([0.95458, 0.9, 0.84542, 0.0], abs=1e-5)


@given(rows=ROWS, said=st.lists(st.integers(0, 100), min_size=14, max_size=14))
def test_arlcp_agrees_with_a_slow_oracle(rows: list[tuple[bool, int, int]], said: list[int]) -> None:
    right, lengths = [float(r) for r, _, _ in rows], [n for _, n, _ in rows]
    order = sorted({g for _, _, g in rows})
    group, said = [order.index(g) for _, _, g in rows], said[: len(rows)]
    wanted: list[float] = []
    for i, g in enumerate(group):
        mates = [j for j, own in enumerate(group) if own == g and right[j]]

        def squashed(values: list[int], at: int, mates: list[int]) -> float:
            own = [values[j] for j in mates]
            spread = statistics.stdev(own) if len(own) > 1 else 1.0
            return sigmoid((values[at] - statistics.mean(own)) / (spread + 1e-6))

        w1 = 0.05 if said[i] <= 40 else 0.1 if said[i] <= 80 else 0.15
        wanted.append(1 - w1 * squashed(said, i, mates) - (0.2 - w1) * squashed(lengths, i, mates) if right[i] else 0.0)
    found = both(right, [float(n) for n in said], lengths, group)
    assert found == pytest.approx(wanted, abs=1e-5)
    assert all(0.8 - 1e-9 <= f <= 1 if r else f == 0 for f, r in zip(found, right, strict=True))


def test_reward_falls_in_reflections_and_in_length_within_a_class_and_one_right_row_gets_nine_tenths() -> None:
    more = both([1, 1, 1], [1, 2, 3], [5, 5, 5], [0, 0, 0])
    longer = both([1, 1, 1], [2, 2, 2], [4, 5, 6], [0, 0, 0])
    assert more == sorted(more, reverse=True) and longer == sorted(longer, reverse=True)
    assert both([1, 0], [7, 3], [2, 9], [0, 0]) == pytest.approx([0.9, 0.0])


def test_equal_z_scores_make_the_class_of_no_matter() -> None:
    assert both([1, 1], [10, 20], [1, 2], [0, 0]) == pytest.approx(both([1, 1], [70, 90], [1, 2], [0, 0]))


@pytest.mark.parametrize("knobs", [{"bounds": (2.0, 1.0)}, {"weights": (0.1,)}, {"weights": (0.1, 0.1, 0.3)}])
def test_weights_that_do_not_fit_are_refused(knobs: dict[str, Any]) -> None:
    with pytest.raises(SettingError, match="reflection_and_length"):
        inspect.unwrap(reflection_and_length)(
            torch.ones(1), torch.ones(1), torch.zeros(1).long(), mask_of([1]), **knobs
        )


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("", 0),
        ("<think>", 0),
        ("Wait. wait! WAIT", 3),
        ("<think>hold on, but</think>wait", 2),
        ("let me double-check", 1),
        ("awaits butter checkers", 0),
        ("<think>1:1\nno back\n1:2\ncheck 12 ok</think>", 2),
    ],
)
def test_reflections_are_whole_words_in_the_thought(text: str, count: int) -> None:
    row = Rollout(Problem("a", "a"), (), (), (), text, "eos", ())
    assert count_reflections(row.problem, row) == count
    assert count_reflections(row.problem, row, words=()) == 0.0


def test_the_recipes_wire_what_their_knobs_say() -> None:
    (ours,), (plain,) = build("grpo-lambda", share=0.3, alpha=0.4), build("grpo")
    assert given_knobs(members(ours.reward)[1]) == {"alpha": 0.4, "share": 0.3}
    assert spec_of(members(ours.terms[0].credit)[0]) is spec_of(members(plain.terms[0].credit)[0])
    (ours,) = build("arlcp", beta=0.001)
    assert [spec_of(m).name for m in members(ours.reward)] == ["outcome", "reflection_and_length", "reference_kl"]
    assert set(ours.roles) == {"reference"} and not build("arlcp")[0].roles


@pytest.mark.parametrize("name", ["grpo-lambda", "arlcp"])
def test_two_steps_are_finite(tmp_path: Path, name: str) -> None:
    lines = two_steps(tmp_path / "run", name)
    penalty = "relative_length" if name == "grpo-lambda" else "reflection_and_length"
    assert all(-0.2 <= line[f"rewards/{penalty}/mean"] <= 0 for line in lines)


@pytest.mark.parametrize("name", ["grpo-lambda", "arlcp"])
def test_a_task_without_an_exact_check_is_refused_in_one_line(name: str) -> None:
    class Unchecked:
        name, supplies = "unchecked", ("score",)

    with pytest.raises(WiringError, match="needs column 'correct', which task 'unchecked' does not supply"):
        check(build(name)[0], Unchecked())  # pyright: ignore[reportArgumentType]
    check(build(name)[0], make("sort,style=trace"))
