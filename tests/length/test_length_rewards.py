"""CRF's conciseness that multiplies the outcome, and the shrinking budget of curriculum GRPO."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from length_runs import two_steps
from torch import Tensor

import truegain.recipes  # noqa: F401  registers them
from truegain.core.arithmetic import reward_stage
from truegain.core.batch import Batch
from truegain.core.component import knobs_of, spec_of
from truegain.core.errors import SettingError, WiringError
from truegain.core.forms import members
from truegain.core.settings import resolve
from truegain.core.system import build
from truegain.core.types import Problem, Rollout
from truegain.methods.length import concise_lines, conciseness_bonus, conciseness_of_model, near_budget, shrink_budget
from truegain.train.online import check

NAN = float("nan")


def bonus(outcome: list[float], score: list[float], group: list[int], **knobs: Any) -> list[float]:
    o, c = torch.tensor(outcome, dtype=torch.float64), torch.tensor(score, dtype=torch.float64)
    return conciseness_bonus(o, c, o, torch.tensor(group), **knobs).tolist()


def test_the_worked_example_of_the_catalog() -> None:
    # s = 1 - 0.5 = .5, d = .25 (a group of which a quarter is right): 1 + .5 * (1, .4) * .75 = 1.375, 1.15; wrong 0.
    # The catalog's three rows have two right, so d is fed by groups of their own: four rows, one of them right.
    found = bonus([1, 0, 0, 0, 1, 0, 0, 0], [1.0, 0.9, 0.9, 0.9, 0.4, 0, 0, 0], [0] * 4 + [1] * 4, progress=0.5)
    assert found == pytest.approx([1.375, 0, 0, 0, 1.15, 0, 0, 0])


@given(
    rows=st.lists(st.tuples(st.booleans(), st.floats(-1, 2), st.integers(0, 2)), min_size=1, max_size=9),
    alpha=st.floats(0, 2), progress=st.floats(0, 1), easy=st.sampled_from(["more", "less", "same"]),
)  # fmt: skip
def test_it_agrees_with_a_slow_oracle_and_wrong_answers_have_nothing_of_it(
    rows: list[tuple[bool, float, int]], alpha: float, progress: float, easy: Any
) -> None:
    order = sorted({g for _, _, g in rows})
    right, group = [float(r) for r, _, _ in rows], [order.index(g) for _, _, g in rows]
    wanted: list[float] = []
    for o, (_, c, _), g in zip(right, rows, group, strict=True):
        own = [r for r, other in zip(right, group, strict=True) if other == g]
        solved = sum(own) / len(own)
        d = {"more": solved, "less": 1 - solved, "same": 0.0}[easy]
        wanted.append(o * (1 + alpha * min(max(c, 0.0), 1.0) * (1 - progress + d)))
    found = bonus(right, [c for _, c, _ in rows], group, alpha=alpha, progress=progress, easy=easy)
    assert found == pytest.approx(wanted)
    assert all(f == 0 for f, r in zip(found, right, strict=True) if not r)


def test_no_alpha_is_the_plain_outcome_and_more_conciseness_never_earns_less() -> None:
    assert bonus([1, 0, 1], [0.1, 0.9, 1.0], [0, 0, 0], alpha=0.0, progress=0.0) == [1, 0, 1]
    rising = bonus([1.0] * 4, [0.1, 0.4, 0.7, 1.0], [0, 1, 2, 3], progress=0.3)
    assert rising == sorted(rising)
    assert bonus([1.0], [7.0], [0], progress=0.0) == bonus([1.0], [1.0], [0], progress=0.0), "clipped before use"


def test_a_reward_model_that_says_nan_makes_right_rows_nan_and_leaves_wrong_ones() -> None:
    found = bonus([1, 0], [NAN, NAN], [0, 0], progress=0.0)
    assert found[0] != found[0] and found[1] == 0
    wrong = torch.tensor([-1.0])
    kept = conciseness_bonus(wrong, torch.tensor([NAN]), torch.zeros(1), torch.zeros(1).long(), progress=0.0)
    assert kept.tolist() == [-1.0], "a negative reward is kept"
    for knobs in ({"alpha": -1.0}, {"anneal": 2.0}):
        with pytest.raises(SettingError, match="conciseness_bonus"):
            bonus([1.0], [1.0], [0], progress=0.0, **knobs)


def test_models_scores_are_averaged_and_clipped() -> None:
    found = conciseness_of_model(torch.tensor([[0.2, 0.4], [3.0, 3.0], [-1.0, -1.0], [NAN, 0.5]]))["conciseness"]
    assert found[:3].tolist() == pytest.approx([0.3, 1.0, 0.1]) and found[3].isnan()


@pytest.mark.parametrize(
    ("text", "score"),
    [
        ("<think>a\nb\nc</think>", 1.0),
        ("<think>a\na\nb\nb</think>", 0.5),
        ("<think>check a ok\nno back</think>", 0.1),
        ("<think></think>", 1.0),
        ("", 1.0),
        ("a\nwait, b\n\n", 0.5),
    ],
)
def test_the_rule_counts_lines_that_say_something_new(text: str, score: float) -> None:
    row = Rollout(Problem("a", "a"), (), (), (), text, "eos", ())
    assert concise_lines(row.problem, row) == pytest.approx(score)


def near(lengths: list[int], budget: float, **knobs: Any) -> list[float]:
    mask = torch.arange(max([*lengths, 1])) < torch.tensor(lengths)[:, None]
    return near_budget(mask, budget=budget, **knobs).tolist()


def test_the_catalogs_lengths_and_budgets() -> None:
    assert near([50, 100, 150, 200, 250], 100.0) == pytest.approx([0.5, 1.0, 0.5, 0.0, 0.0])
    control = shrink_budget()
    assert [control.at(t) for t in (0, 99, 100, 250, 300)] == pytest.approx([256, 256, 179.2, 125.44, 87.808])


@given(budget=st.integers(1, 30), most=st.floats(0, 1))
def test_the_reward_peaks_at_the_budget_and_is_symmetric(budget: int, most: float) -> None:
    found = near(list(range(3 * budget + 1)), float(budget), most=most)
    assert found[0] == 0 and found[budget] == pytest.approx(most) and max(found) == pytest.approx(most)
    assert found[: budget + 1] == pytest.approx(found[budget : 2 * budget + 1][::-1], abs=1e-6)
    assert not any(found[2 * budget :])
    band = near(list(range(3 * budget + 1)), float(budget), most=most, shape="band")
    assert band[: budget + 1] == pytest.approx([most] * (budget + 1)) and band[budget:] == pytest.approx(found[budget:])


def test_a_wrong_answer_of_the_right_length_is_paid_too() -> None:
    # Not gated, as in the paper: .3 for the length, and .6 and .1 only for what is right and well formed.
    (form,) = build("curriculum-grpo", start=4.0)
    mask = torch.ones(2, 4, dtype=torch.bool)
    said = Batch(mask=mask, correct=torch.tensor([1.0, 0.0]), answered=torch.ones(2), group=torch.zeros(2).long())
    facts = {"progress": 0.0, "step_index": 0, "max_tokens": 8}
    assert reward_stage(form, said, facts)[0]["reward"].tolist() == pytest.approx([1.0, 0.4])


@given(decay=st.floats(0.1, 1.0), every=st.integers(1, 50), shape=st.sampled_from(["exponential", "linear"]))
def test_the_budget_never_grows_and_never_falls_below_its_floor(decay: float, every: int, shape: Any) -> None:
    control = shrink_budget(start=100.0, decay=decay, every=every, least=5.0, shape=shape)
    budgets = [control.at(t) for t in range(0, 400, 7)]
    assert budgets == sorted(budgets, reverse=True) and min(budgets) >= 5.0
    assert shrink_budget(start=40.0, decay=1.0).at(10_000) == 40.0


def test_the_fold_sets_the_next_steps_budget_and_its_first_is_the_recipes() -> None:
    (form,) = build("curriculum-grpo", start=40.0, decay=0.5, every=2, least=5.0)
    control = members(form.fold)[0]()
    assert knobs_of(members(form.reward)[1])["budget"] == 40.0
    assert resolve(form, "reward.near_budget.budget") == "reward.near_budget.budget"
    found = [control.update({}, step_index=t)[1]["reward.near_budget.budget"] for t in range(5)]
    assert found == [40.0, 20.0, 20.0, 10.0, 10.0]
    for knobs in ({"start": 0.0}, {"decay": 0.0}, {"every": 0}):
        with pytest.raises(SettingError, match="shrink_budget"):
            shrink_budget(**knobs)
    with pytest.raises(SettingError, match="near_budget"):
        inspect.unwrap(near_budget)(torch.ones(1, 1).bool(), budget=0.0)


def empty(width: int = 0) -> Tensor:
    return torch.zeros(2, width, dtype=torch.bool)


def test_empty_and_fully_masked_rows_earn_no_length_reward() -> None:
    assert near_budget(empty()).tolist() == [0.0, 0.0] and near_budget(empty(3)).tolist() == [0.0, 0.0]
    assert near_budget(empty(3), shape="band").tolist() == [1.0, 1.0]


@pytest.mark.parametrize("name", ["crf", "curriculum-grpo"])
def test_two_steps_are_finite(tmp_path: Path, name: str) -> None:
    knobs: dict[str, Any] = {"every": 1} if name == "curriculum-grpo" else {}
    lines = two_steps(tmp_path / "run", name, **knobs)
    if name == "curriculum-grpo":
        assert [line["set/reward.near_budget.budget"] for line in lines] == pytest.approx([64 * 0.7, 64 * 0.49])


def test_a_reward_model_takes_the_place_of_the_rule_and_missing_columns_are_refused() -> None:
    (form,) = build("crf", model="somewhere")
    assert form.roles["conciseness"].source == "somewhere" and not members(form.score)
    assert [spec_of(m).name for m in members(form.probe)] == ["conciseness_of_model"]

    class Unchecked:
        name, supplies = "unchecked", ("score",)

    for name in ("crf", "curriculum-grpo"):
        with pytest.raises(WiringError, match="needs column 'correct', which task 'unchecked' does not supply"):
            check(build(name)[0], Unchecked())  # pyright: ignore[reportArgumentType]
