from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch

from truegain.core.batch import Batch
from truegain.core.errors import DataError
from truegain.core.types import Problem, Rollout, Turn
from truegain.rollout.batch import to_columns


def rows(*facts: Mapping[str, Any]) -> list[Rollout]:
    one = Turn("policy", 0, 1)
    return [Rollout(Problem(f"p{i}", ""), (1,), (5,), (0.0,), "", "stop", (one,), facts=f) for i, f in enumerate(facts)]


@pytest.mark.parametrize("name", ["test_pass", "step_reward", "turn_reward", "model_reward", "probe_correct"])
def test_lists_of_numbers_become_a_column_padded_with_nan(name: str) -> None:
    found = to_columns(rows({name: [1.0, 0, True]}, {name: (0.5,)}, {name: []}))[name]
    nan = float("nan")
    wanted = torch.tensor([[1.0, 0.0, 1.0], [0.5, nan, nan], [nan, nan, nan]])
    assert found.dtype == torch.float32 and torch.equal(found.isnan(), wanted.isnan())
    assert torch.equal(found.nan_to_num(), wanted.nan_to_num())
    Batch(**to_columns(rows({name: [1.0]}, {name: [2.0]})))


def test_none_in_a_list_is_nan_as_a_judge_may_have_failed() -> None:
    found = to_columns(rows({"step_reward": [None, 0.5]}))["step_reward"]
    assert found[0, 0].isnan() and found[0, 1] == 0.5


def test_rows_with_nothing_but_empty_lists_give_a_column_without_width() -> None:
    assert to_columns(rows({"test_pass": []}, {"test_pass": []}))["test_pass"].shape == (2, 0)


def test_a_list_that_not_every_row_has_is_no_column() -> None:
    assert "test_pass" not in to_columns(rows({"test_pass": [1.0]}, {}))
    assert "test_pass" not in to_columns(rows({"test_pass": [1.0]}, {"test_pass": "1"}))


def test_lists_that_name_no_such_column_and_records_stay_with_the_rollouts() -> None:
    found = to_columns(
        rows({"calls": [{"name": "x"}], "final": "7", "score": [1.0], "anything": [1.0], "correct": 1.0})
    )
    assert not {"calls", "final", "score", "anything"} & set(found) and found["correct"].shape == (1,)


@pytest.mark.parametrize("bad", [["a"], [[1.0]], [1.0, {}], [1j]])
def test_something_else_than_numbers_is_refused_in_one_line(bad: list[Any]) -> None:
    with pytest.raises(DataError, match="fact 'turn_reward' must hold numbers only") as refused:
        to_columns(rows({"turn_reward": bad}))
    assert "\n" not in str(refused.value)
