"""Python judged by unit tests: the forms of the tests, what counts as a program, and a training run on them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from truegain.core.errors import DataError, SettingError
from truegain.core.types import SPLITS, Abstain, Problem, Rollout, Turn
from truegain.runtime.sandbox import chosen
from truegain.tasks.files import FileTask
from truegain.tasks.mixture import parse
from truegain.tasks.python_check import PythonCheck, key_of, program_of, read_key

try:
    chosen()
    NONE = ""
except SettingError as error:
    NONE = str(error)
runs = pytest.mark.skipif(bool(NONE), reason=NONE or "a sandbox works")


def write(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def rollout(problem: Problem, text: str) -> Rollout:
    return Rollout(problem, (1,), (2,), (0.0,), text, "eos", (Turn("policy", 0, 1),))


def only(task: FileTask) -> Problem:
    (problem,) = [task.problem(split, i) for split in SPLITS for i in range(task.size(split))]
    return problem


def judged(tmp_path: Path, row: dict[str, Any], text: str) -> Any:
    task = FileTask(write(tmp_path / "one.jsonl", [{"prompt": "Write it.", **row}]), checker="python")
    return task.score(only(task), rollout(only(task), text))


ADD = "def add(a, b):\n    return a + b\n"
FORMS = {
    "asserts": ({"tests": ["assert add(1, 2) == 3", "assert add(-1, 1) == 0"]}, ADD, [1, 1]),
    "asserts with a set-up": (
        {"test_list": ["assert isclose(add(.1, .2), .3)"], "test_setup_code": "from math import isclose"},
        ADD,
        [1],
    ),
    "one code with check": (
        {"test": "def check(candidate):\n    assert candidate(1, 2) == 3\n", "entry_point": "add"},
        ADD,
        [1],
    ),
    "standard input and output": (
        {"tests": [{"input": "1 2\n", "output": "3"}, {"stdin": "4 5", "stdout": "9\n\n"}]},
        "print(sum(map(int, input().split())))",
        [1, 1],
    ),
    "lists of inputs and outputs": (
        {"input_output": json.dumps({"inputs": ["1 2\n", "4 5"], "outputs": ["3", "10"]})},
        "print(sum(map(int, input().split())))",
        [1, 0],
    ),
    "arguments and values": (
        {"tests": {"inputs": [[1, 2], [[1], [2]]], "outputs": [3, [1, 2]], "fn_name": "add"}},
        "class Solution:\n    def add(self, a, b):\n        return a + b",
        [1, 1],
    ),
    "arguments and values as JSON lines": (
        {"tests": json.dumps([{"input": "1\n2", "output": "3", "testtype": "functional"}]), "fn_name": "add"},
        ADD,
        [1],
    ),
}


@runs
@pytest.mark.parametrize("form", FORMS)
def test_tests_of_every_form_are_run_and_each_has_its_own_verdict(tmp_path: Path, form: str) -> None:
    row, program, passed = FORMS[form]
    facts = judged(tmp_path, row, f"Here it is:\n```python\n{program}\n```\n")
    assert facts == {"correct": float(min(passed)), "answered": 1.0, "test_pass": passed}


@runs
def test_a_program_that_fails_some_tests_is_wrong_and_a_text_without_a_program_is_unanswered(tmp_path: Path) -> None:
    row = FORMS["asserts"][0]
    half = judged(tmp_path, row, "def add(a, b):\n    return abs(a) + b\n")
    assert half == {"correct": 0.0, "answered": 1.0, "test_pass": [1.0, 0.0]}
    assert judged(tmp_path, row, " \n") == {"correct": 0.0, "answered": 0.0, "test_pass": [0.0, 0.0]}
    assert judged(tmp_path, row, "I do not know.")["test_pass"] == [0.0, 0.0]


@runs
@pytest.mark.parametrize(
    "cheat",
    [
        "import os; os._exit(0)",
        "print('3'); import sys; sys.exit()",
        "class A:\n    __eq__ = lambda s, o: True\nadd = lambda a, b: A()",
    ],
)
def test_a_program_cannot_pass_by_its_own_word(tmp_path: Path, cheat: str) -> None:
    assert judged(tmp_path, FORMS["asserts"][0], cheat)["test_pass"] == [0.0, 0.0]


@runs
def test_right_output_before_a_crash_or_a_limit_is_wrong(tmp_path: Path) -> None:
    row = {"tests": [{"input": "", "output": "3"}]}
    assert judged(tmp_path, row, "print(3)")["correct"] == 1.0
    assert judged(tmp_path, row, "print(3); 1 / 0")["correct"] == 0.0
    assert judged(tmp_path, row, "print(' 3')")["correct"] == 0.0


@runs
def test_a_test_that_cannot_be_carried_out_is_an_abstention_that_names_the_row(tmp_path: Path) -> None:
    found = judged(tmp_path, {"tests": ["assert add(lambda: 1, 2)"]}, ADD)
    assert isinstance(found, Abstain)
    assert found.reason.startswith(f"{tmp_path / 'one.jsonl'}, line 1: the test cannot be carried out")


@runs
def test_a_batch_is_judged_in_order_and_each_program_once(tmp_path: Path) -> None:
    rows = [{"prompt": f"p{i}", "tests": [f"assert f() == {i}", "assert f() >= 0"][: 1 + i % 2]} for i in range(4)]
    task = FileTask(write(tmp_path / "many.jsonl", rows), checker="python")
    problems = [task.problem(split, i) for split in SPLITS for i in range(task.size(split))]
    numbers = [int(str(problem.prompt)[1:]) for problem in problems]
    texts = [f"def f():\n    return {n if n != 2 else 7}" for n in numbers]
    facts: Any = task.score_all(problems * 2, [rollout(p, t) for p, t in zip(problems * 2, texts * 2, strict=True)])
    assert [fact["correct"] for fact in facts] == [float(n != 2) for n in numbers] * 2
    assert [len(fact["test_pass"]) for fact in facts] == [1 + n % 2 for n in numbers] * 2
    assert task._python is not None and len(task._python._known) == 4


def test_a_task_with_tests_supplies_test_pass_and_one_of_other_checkers_does_not(tmp_path: Path) -> None:
    path = write(tmp_path / "d.jsonl", [{"prompt": "p", "tests": ["assert f()"], "answer": "1"}])
    assert parse(f"{path},checker=python").supplies == ("correct", "answered", "test_pass")  # type: ignore[attr-defined]
    assert FileTask(path).supplies == ("correct", "answered")


@runs
def test_rows_whose_own_completion_fails_their_tests_are_reported(tmp_path: Path) -> None:
    rows = [
        {"prompt": "a", "tests": ["assert f() == 1"], "completion": "def f():\n    return 1"},
        {"prompt": "b", "tests": ["assert f() == 1"], "completion": "def f():\n    return 2"},
    ]
    task = FileTask(write(tmp_path / "own.jsonl", rows), checker="python")
    assert [problem.prompt for problem in task.bad_keys()] == ["b"]


@pytest.mark.parametrize(
    ("row", "why"),
    [
        ({"answer": "1"}, r"no column 'tests' or 'test' or"),
        ({"tests": []}, "holds no tests"),
        ({"tests": 5}, "holds no tests"),
        ({"tests": ["assert f( == 1"]}, "test 1 of 'tests' is no Python"),
        ({"tests": [{"input": "1"}]}, "needs 'input' and 'output'"),
        ({"tests": [3]}, "is a int; it must be code"),
        ({"tests": {"inputs": ["1"], "outputs": []}}, "of one length"),
        ({"tests": [{"input": "x y", "output": "1"}], "fn_name": "f"}, "is no JSON"),
    ],
)
def test_tests_that_cannot_be_used_are_refused_with_file_and_line(
    tmp_path: Path, row: dict[str, Any], why: str
) -> None:
    path = write(tmp_path / "bad.jsonl", [{"prompt": "p", **row}])
    with pytest.raises(DataError, match=why) as caught:
        FileTask(path, checker="python")
    assert "line 1" in str(caught.value)


HEAD = 'def add(a, b):\n    """Adds."""\n'
KEY = key_of("here", "test", {"test": "assert add(1, 2) == 3", "entry_point": "add"})


@pytest.mark.parametrize(
    ("text", "prompt", "program"),
    [
        ("```python\na\n```\nthen\n```py\nb\n```", "", "b"),
        ("```python\ncut off", "", "cut off"),
        ("<think>```python\nx\n```</think>y", "", "y"),
        ("so <answer>print(1)</answer>", "", "print(1)"),
        ("x = '####'", "", "x = '####'"),
        ("    return a + b\n", HEAD, HEAD + "    return a + b\n"),
        (ADD, HEAD, ADD),
        (" ", HEAD, None),
    ],
)
def test_the_program_of_a_completion(text: str, prompt: str, program: str | None) -> None:
    assert program_of(text, prompt, KEY) == program


def test_a_key_says_the_same_tests_again() -> None:
    unit = read_key(KEY)
    assert unit.entry == "add" and [getattr(test, "test", None) for test in unit.tests] == ["assert add(1, 2) == 3"]


def test_where_no_sandbox_works_the_first_program_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    from truegain.runtime import backend

    monkeypatch.setattr(backend, "unusable", lambda backend: "it is missing")
    with pytest.raises(SettingError, match="install bubblewrap"):
        PythonCheck().outcomes([(ADD, KEY)])


@runs
def test_verpo_trains_on_python_files(tmp_path: Path) -> None:
    rows = [{"prompt": f"Print {i}.", "tests": [{"input": "", "output": str(i)}] * (1 + i % 2)} for i in range(20)]
    path = write(tmp_path / "code.jsonl", rows)
    command = [
        sys.executable,
        "-m",
        "truegain.cli",
        "train",
        "verpo",
        "--model",
        "tiny",
        "--task",
        f"{path},checker=python",
    ]
    command += ["--steps", "2", "--dev-problems", "2", "--test-problems", "2", "--eval-samples", "1"]
    command += ["--out", str(tmp_path / "run")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    steps = [line for line in lines if "reward" in str(line)]
    assert len(steps) >= 2, lines
