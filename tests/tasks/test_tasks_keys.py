"""Checkers for rows of anybody's data: the answer that a row brings along is the key."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from truegain.core.errors import SettingError
from truegain.core.types import Abstain, Problem, Rollout
from truegain.runtime.sandbox import chosen
from truegain.tasks.files import FileTask
from truegain.tasks.keys import Keys

try:
    chosen()
    NONE = ""
except SettingError as error:
    NONE = str(error)


def rollout(problem: Problem, text: str) -> Rollout:
    return Rollout(problem, (), (), (), text, "eos", ())


@pytest.mark.parametrize(
    ("checker", "key", "text", "correct"),
    [
        ("exact", "1000", "that makes $1,000 in all", 1.0),
        ("exact", "1000", "<answer>1,000</answer> or 5", 1.0),
        ("exact", "7", "7 or 8", 0.0),  # the last number counts
        ("exact", "1/2", "1/2", 1.0),  # whole: the last number would be 2
        ("exact", "1/2", "it is 2", 0.0),
        ("exact", "blue", "<think>red</think>Blue.", 1.0),
        ("exact", "7", "7<|im_end|>", 1.0),
        ("math", "x+1", r"\boxed{1+x}", 1.0),
        ("math", "x+1", r"\boxed{x-1}", 0.0),
        ("math", "7", "I get 7", 1.0),
        ("math", "7", "no idea", 0.0),
    ],
)
def test_a_final_answer_is_compared_with_the_rows_key(checker: str, key: str, text: str, correct: float) -> None:
    problem = Problem("p", "?", key)
    found = Keys(checker).score(problem, rollout(problem, text))
    assert isinstance(found, dict)
    assert found["correct"] == correct


@pytest.mark.parametrize("checker", ["exact", "math", "python"])
@pytest.mark.parametrize("answer", [None, ""])
def test_a_row_without_a_key_is_an_abstention(checker: str, answer: str | None) -> None:
    problem = Problem("p", "?", answer)
    assert isinstance(Keys(checker).score(problem, rollout(problem, "7")), Abstain)


def test_a_key_that_is_no_mathematics_is_an_abstention() -> None:
    problem = Problem("p", "?", "}{")
    found = Keys("math").score(problem, rollout(problem, r"\boxed{7}"))
    assert isinstance(found, Abstain)
    assert "is no readable mathematics" in found.reason


def test_many_rows_are_judged_in_their_order() -> None:
    problems = [Problem(str(n), "?", None if n == 2 else str(n)) for n in range(5)]
    found = Keys("math").score_all(problems, [rollout(problem, "I get 3") for problem in problems])
    assert [one if isinstance(one, Abstain) else one["correct"] for one in found if not isinstance(one, Abstain)] == [
        0.0,
        0.0,
        1.0,
        0.0,
    ]
    assert isinstance(found[2], Abstain)


@pytest.mark.skipif(bool(NONE), reason=NONE or "a sandbox works")
def test_a_program_is_run_against_the_tests_in_the_key(tmp_path: Path) -> None:
    file = tmp_path / "one.jsonl"
    file.write_text(json.dumps({"prompt": "Write add(a, b).", "tests": ["assert add(1, 2) == 3"]}) + "\n")
    task = FileTask(file, checker="python")
    problem = next(task.problem(split, 0) for split in ("train", "dev", "test") if task.size(split))
    judge = Keys("python")
    texts = ("```python\ndef add(a, b):\n    return a + b\n```", "```python\ndef add(a, b):\n    return 0\n```", "")
    assert [judge.score(problem, rollout(problem, text)) for text in texts] == [
        {"correct": 1.0, "answered": 1.0},
        {"correct": 0.0, "answered": 1.0},
        {"correct": 0.0, "answered": 0.0},
    ]


def test_an_unknown_checker_is_refused_with_the_nearest() -> None:
    with pytest.raises(SettingError, match=r"unknown checker 'exat' \(did you mean 'exact'\?\)"):
        Keys("exat")
