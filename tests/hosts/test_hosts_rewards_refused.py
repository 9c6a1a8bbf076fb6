"""What a reward refuses, in one line, when it is made or called; and what is never assumed for its user."""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from truegain.core.errors import SettingError, WiringError
from truegain.core.types import Abstain, Problem
from truegain.hosts.rewards import ABSTAINED, DEADLINES, Reward

FUNCTION = """
def contains(completions, answer, **columns):
    return [float(a in c) for a, c in zip(answer, completions)]
"""


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> str:
    file = tmp_path_factory.mktemp("rewards") / "my_rewards.py"
    file.write_text(FUNCTION)
    return str(file)


@pytest.mark.parametrize(
    ("source", "settings", "why"),
    [
        (5, {}, r"a reward is a name \(exact.*\) or a function, not 5"),
        (None, {}, "or a function, not None"),
        (partial(print), {}, "a partial has no name to find it by"),
        (
            "sort",
            {"fact": "corect"},
            r"no fact 'corect' \(did you mean 'correct'\?\); it gives correct, answered",
        ),
        ("program", {"fact": "test_pass"}, "gives no fact 'test_pass'; it gives correct, answered"),
        ("FILE:contains", {"fact": "score"}, "contains is no task's checker, which alone finds more than one number"),
        ("exact", {"workers": 0}, "workers=0: it is a whole number of processes, 1 or more"),
        ("exact", {"workers": True}, "workers=True"),
        ("exact", {"deadline": "x"}, "deadline='x': it is a number of seconds above 0"),
        ("exact", {"deadline": float("nan")}, "deadline=nan"),
        ("exact", {"memory_mb": -1}, "memory_mb=-1: it is a number of MiB above 0"),
        ("exact", {"name": ""}, "name='': it is text"),
    ],
)
def test_what_fits_no_reward_is_refused_when_it_is_made(
    path: str, source: Any, settings: dict[str, Any], why: str
) -> None:
    with pytest.raises(SettingError, match=why):
        Reward.of(source.replace("FILE", path) if isinstance(source, str) else source, **settings)


@pytest.mark.parametrize(("source", "seconds"), [("exact", 90.0), ("FILE:contains", 30.0)])
def test_the_deadline_is_the_one_that_the_page_states(path: str, source: str, seconds: float) -> None:
    reward = Reward.of(source.replace("FILE", path), workers=1)
    assert reward.deadline == DEADLINES[reward.kind] == seconds
    reward.close()
    page = (Path(__file__).parents[2] / "docs" / "rewards.md").read_text()
    assert "30 for a function (a TRL function: for the batch), 60 for a reward model, and 90 for a task's" in page


def test_what_verl_trains_on_for_an_abstention_is_said_by_the_caller() -> None:
    reward = Reward.of("exact", workers=1)
    with pytest.raises(TypeError, match="abstained"):
        reward.as_verl()  # type: ignore[call-arg]
    with pytest.raises(SettingError, match="abstained='keep': it is a number, or \"drop\", which is NaN"):
        reward.as_verl(abstained="keep")  # type: ignore[arg-type]
    dropped = reward.as_verl(abstained="drop")("d", "7", "", {})
    assert math.isnan(dropped["score"])
    assert dropped[ABSTAINED] == 1.0
    reward.close()


def test_a_reward_itself_is_called_as_trl_calls_it_and_by_no_other_host() -> None:
    reward = Reward.of("exact", workers=1, name="correct")
    assert reward.__name__ == "correct"
    assert reward(prompts=["p"] * 2, completions=["7", "8"], answer=["7", "7"]) == [1.0, 0.0]
    with pytest.raises(SettingError, match=r"give the host reward.as_trl\(\), reward.as_verl"):
        reward(data_source="d", solution_str="7", ground_truth="7")
    reward.close()


@pytest.mark.parametrize("source", ["exact", "FILE:contains"])
def test_a_column_of_another_length_is_named_with_its_entries(path: str, source: str) -> None:
    reward = Reward.of(source.replace("FILE", path), workers=1)
    with pytest.raises(WiringError, match="the column 'answer' has 1 entries for 2 completions"):
        reward.as_trl()(prompts=["p"] * 2, completions=["7", "8"], answer=["7"])
    with pytest.raises(WiringError, match="the column 'prompts' has 1 entries for 2 completions"):
        reward.as_trl()(prompts=["p"], completions=["7", "8"], answer=["7", "7"])
    with pytest.raises(WiringError, match="the column 'answer' is a str; it needs a list of 1 entries"):
        reward.as_trl()(prompts=["p"], completions=["7"], answer="7")
    with pytest.raises(WiringError, match=r"the column 'answer'(, and the data offers no column;|; .* completions)"):
        reward.as_trl()(prompts=["p"], completions=["7"])
    reward.close()


@pytest.mark.parametrize("answer", ["7", "[1]", "assert f(1) == 2", '{"entry": ""}'])
def test_a_plain_answer_holds_no_tests_for_the_python_checker(answer: str) -> None:
    reward = Reward.of("python", workers=1)
    (said,) = reward.score([Problem("p", "x", answer)], ["print(7)"])
    assert isinstance(said, Abstain)
    assert "its answer holds no tests; `truegain convert FILE,checker=python` makes them" in said.reason
    reward.close()
