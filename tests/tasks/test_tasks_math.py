"""Math-verify as a checker: verdicts, abstentions that say why, and hostile answers that cost a bounded time."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from truegain.core.errors import SettingError
from truegain.core.types import SPLITS, Abstain, Problem, Rollout, Turn
from truegain.tasks._answers import MAX_ANSWER
from truegain.tasks.files import FileTask
from truegain.tasks.math_check import MathCheck, boxed, stated
from truegain.tasks.mixture import parse

pytest.importorskip("math_verify")

# What a worker's memory, depth or patience is not made for.
NESTED = "{" * 900 + "1" + "}" * 900
TOWER = "10^{10^{10}}"
BOMBS = [NESTED, TOWER, "100000000!", r"\frac{" * 300 + "1" + "}{2}" * 300, "(" * 900 + "1" + ")" * 900]


@pytest.fixture(scope="module")
def check() -> Iterator[MathCheck]:
    checker = MathCheck(count=1)
    yield checker
    checker.close()


@pytest.fixture(scope="module")
def brief() -> Iterator[MathCheck]:
    """One that gives up after half a second."""
    checker = MathCheck(deadline=0.5, count=1)
    checker.verdicts([("x", boxed("x"))])
    yield checker
    checker.close()


def write(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def rollout(problem: Problem, text: str) -> Rollout:
    return Rollout(problem, (1,), (2,), (0.0,), text, "eos", (Turn("policy", 0, 1),))


def everything(task: FileTask) -> list[Problem]:
    return [task.problem(split, i) for split in SPLITS for i in range(task.size(split))]


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.parametrize(
    ("key", "answer"),
    [
        ("\\frac{1}{2}", "0.5"),
        ("1/2", "\\frac{2}{4}"),
        ("2\\sqrt{2}", "\\sqrt{8}"),
        ("x^2+2x+1", "(x+1)^2"),
        ("(1,2]", "(1,2]"),
        ("\\{1,2\\}", "\\{2,1\\}"),
        ("1,000", "1000"),
        ("100000", "1e5"),  # math-verify alone reads 1 * e * 5
        ("\\pi", "\\pi"),
        ("5", "x=5"),
    ],
)
def test_equal_mathematics_is_right(check: MathCheck, key: str, answer: str) -> None:
    assert check.verdicts([(key, boxed(answer))]) == ["right"]


@pytest.mark.parametrize(
    ("key", "answer"), [("\\frac{1}{2}", "\\frac{1}{3}"), ("x+1", "x-1"), ("(1,2]", "(1,2)"), ("12", "-12"), ("7", "y")]
)
def test_unequal_mathematics_is_wrong(check: MathCheck, key: str, answer: str) -> None:
    assert check.verdicts([(key, boxed(answer))]) == ["wrong"]


def test_the_key_goes_first_as_the_comparison_is_not_symmetric(check: MathCheck) -> None:
    # An answer may name the variable that the key leaves out, x=5 for 5; a key that is an equation wants one.
    assert check.verdicts([("5", boxed("x=5")), ("x^2=5", boxed("5"))]) == ["right", "wrong"]


def test_an_answer_without_an_expression_is_unread_and_a_key_without_one_is_bad(check: MathCheck) -> None:
    pairs = [("x", boxed("?")), ("x", ""), ("x", "who knows"), ("?", boxed("x")), ("", boxed("x")), ("?", boxed("?"))]
    assert check.verdicts(pairs) == ["unread", "unread", "unread", "bad key", "bad key", "bad key"]


def test_plain_integers_need_no_worker_and_get_the_verdict_that_math_verify_gives(check: MathCheck) -> None:
    import math_verify

    fresh = MathCheck()
    values = ["0", "7", "-7", "+7", "1,234", "1234", "007", "99999999999999999999", "99999999999999999998"]
    pairs = [(key, boxed(answer)) for key in values for answer in values]
    verdicts = fresh.verdicts(pairs)
    assert fresh._workers is None
    for (key, text), verdict in zip(pairs, verdicts, strict=True):
        assert (verdict == "right") == math_verify.verify(math_verify.parse(boxed(key)), math_verify.parse(text))


def test_every_pair_is_answered_in_order_and_repeats_are_asked_once(check: MathCheck) -> None:
    pairs = [("x", boxed("x")), ("x", boxed("y")), ("x", boxed("x"))] * 50
    assert check.verdicts(pairs) == ["right", "wrong", "right"] * 50
    began = time.perf_counter()
    assert check.verdicts(pairs) == ["right", "wrong", "right"] * 50
    assert time.perf_counter() - began < 0.05


@pytest.mark.parametrize("bomb", BOMBS, ids=["nested", "tower", "factorial", "fractions", "brackets"])
def test_a_bomb_costs_its_deadline_and_the_next_check_is_served(brief: MathCheck, bomb: str) -> None:
    began = time.perf_counter()
    (verdict,) = brief.verdicts([("x+1", boxed(bomb))])
    assert time.perf_counter() - began < 10
    assert verdict != "right"
    if isinstance(verdict, Abstain):
        assert verdict.reason.startswith("math-verify: ")
        assert len(verdict.reason) < 600 and "\n" not in verdict.reason
    assert brief.verdicts([("x+1", boxed("1+x"))]) == ["right"]


@pytest.mark.parametrize("endless", [TOWER, "100000000!"])
def test_a_check_past_its_deadline_is_an_abstention_and_not_a_wrong_answer(brief: MathCheck, endless: str) -> None:
    (verdict,) = brief.verdicts([("x+2", boxed(endless))])
    assert isinstance(verdict, Abstain)
    assert "within" in verdict.reason


def test_a_worker_that_is_killed_is_an_abstention_and_the_next_check_is_served(check: MathCheck) -> None:
    check.verdicts([("y", boxed("y"))])
    assert check._workers is not None
    for pid in check._workers.pids:
        os.kill(pid, 9)
    assert check.verdicts([("y+1", boxed("1+y"))]) in (["right"], [Abstain("math-verify: worker died (exit code -9)")])
    assert check.verdicts([("y+2", boxed("2+y"))]) == ["right"]


def test_checks_work_from_many_threads_at_once(check: MathCheck) -> None:
    found: dict[int, Any] = {}

    def work(number: int) -> None:
        found[number] = check.verdicts([(f"x+{number}", boxed(f"{number}+x")), (f"x+{number}", boxed("z"))])

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {number: ["right", "wrong"] for number in range(8)}


def test_no_worker_outlives_its_checker() -> None:
    checker = MathCheck(count=2)
    checker.verdicts([("x", boxed("x"))])
    assert checker._workers is not None
    pids = checker._workers.pids
    checker.close()
    assert not any(map(alive, pids))
    assert checker.verdicts([("x+1", boxed("1+x"))]) == ["right"]  # starts anew
    again = checker._workers.pids
    del checker
    assert again and not any(map(alive, again))


def test_no_worker_outlives_a_process_that_is_killed_in_a_check() -> None:
    code = (
        "import threading, time, os\n"
        "from truegain.tasks.math_check import MathCheck, boxed\n"
        "c = MathCheck(deadline=60, count=1)\n"
        "c.verdicts([('x', boxed('x'))])\n"
        "threading.Thread(target=lambda: c.verdicts([('x', boxed('10^{10^{10}}'))]), daemon=True).start()\n"
        "time.sleep(0.3)\n"
        "print(*c._workers.pids, flush=True)\n"
        "os.kill(os.getpid(), 9)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    pids = [int(word) for word in done.stdout.split()]
    assert pids, done.stderr
    until = time.monotonic() + 5
    while any(map(alive, pids)) and time.monotonic() < until:
        time.sleep(0.02)
    assert not any(map(alive, pids))


def test_without_the_package_the_one_line_error_says_how_to_get_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    file = write(tmp_path / "data.jsonl", [{"prompt": "1+1", "answer": "2"}])
    with pytest.raises(SettingError, match=r"pip install 'truegain\[math\]'") as error:
        parse(f"{file},checker=math")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "last_number", "goes"),
    [
        ("so \\boxed{\\frac12}.", False, "\\boxed{\\frac12}"),
        ("<think>\\boxed{1}</think> it is $2$", False, " it is $2$"),
        ("3 and 4 make 7 fruits", True, "\\boxed{7}"),
        ("none", True, ""),
        ("<answer>" + "1" * 3000 + "</answer>", False, ""),
        ("ab" * 5000, False, "ab" * (MAX_ANSWER // 2)),
    ],
)
def test_what_goes_to_math_verify_is_the_marked_answer_or_the_end(text: str, last_number: bool, goes: str) -> None:
    assert stated(text, last_number=last_number) == goes


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> FileTask:
    rows = [
        {"prompt": "half?", "solution": "We halve. \\boxed{\\frac{1}{2}}"},
        {"prompt": "root?", "solution": "\\boxed{2\\sqrt{2}}"},
        {"prompt": "what?", "solution": "\\boxed{?}"},
        {"prompt": "void?", "solution": "\\boxed{}"},
    ]
    path = write(tmp_path_factory.mktemp("math") / "math.jsonl", rows)
    made = parse(f"{path},checker=math")
    assert isinstance(made, FileTask)
    return made


def named(task: FileTask, prompt: str) -> Problem:
    return next(problem for problem in everything(task) if problem.prompt == prompt)


@pytest.mark.parametrize(
    ("text", "correct", "answered"),
    [
        ("It is \\boxed{0.5}<|im_end|>", 1.0, 1.0),
        ("<answer>2/4</answer>", 1.0, 1.0),
        ("Thus the answer is $\\frac{1}{2}$.", 1.0, 1.0),
        ("\\boxed{2}", 0.0, 1.0),
        ("I cannot say", 0.0, 0.0),
        ("\\boxed{?}", 0.0, 0.0),
        ("", 0.0, 0.0),
        ("\\boxed{" * 2000, 0.0, 0.0),
        ("7" * 1_000_000, 0.0, 1.0),
        ("\\boxed{" + "7" * 1_000_000 + "}", 0.0, 0.0),
        ("word " * 200_000 + "$\\frac{1}{2}$", 1.0, 1.0),
    ],
)
def test_completions_are_right_or_wrong_and_an_unreadable_one_is_wrong_and_unanswered(
    task: FileTask, text: str, correct: float, answered: float
) -> None:
    problem = named(task, "half?")
    began = time.perf_counter()
    assert task.score(problem, rollout(problem, text)) == {"correct": correct, "answered": answered}
    assert time.perf_counter() - began < 10


def test_a_key_that_cannot_be_read_is_an_abstention_that_names_file_and_line(task: FileTask) -> None:
    what, void = named(task, "what?"), named(task, "void?")
    reason = f"{task.path}, line 3: the answer '?' is no readable mathematics"
    assert task.score(what, rollout(what, "\\boxed{1}")) == Abstain(reason)
    assert task.score(void, rollout(void, "\\boxed{1}")) == Abstain("the answer key is empty")
    assert sorted(map(task.place, task.bad_keys())) == [f"{task.path}, line 3", f"{task.path}, line 4"]


def test_a_batch_is_scored_in_order_with_each_row_its_own_problem(task: FileTask) -> None:
    half, root, what = named(task, "half?"), named(task, "root?"), named(task, "what?")
    problems = [half, root, what, root]
    texts = ["\\boxed{0.5}", "\\boxed{\\sqrt{8}}", "\\boxed{1}", "\\boxed{8}"]
    facts = task.score_all(problems, [rollout(p, t) for p, t in zip(problems, texts, strict=True)])
    assert [f if isinstance(f, Abstain) else f["correct"] for f in facts] == [1.0, 1.0, facts[2], 0.0]
    assert isinstance(facts[2], Abstain)


def test_gsm8k_answers_are_read_by_their_last_number_and_need_no_worker(tmp_path: Path) -> None:
    rows = [{"question": f"{i}+1?", "answer": f"{i}+1.\n#### {i + 1}"} for i in range(5)]
    made = FileTask(write(tmp_path / "gsm.jsonl", rows), checker="math")
    for problem in everything(made):
        right, wrong = f"We add: {problem.answer}.0", f"It was {problem.answer} or 99"
        assert made.score(problem, rollout(problem, right)) == {"correct": 1.0, "answered": 1.0}
        assert made.score(problem, rollout(problem, wrong)) == {"correct": 0.0, "answered": 1.0}
        assert made.final(problem, wrong) == "99"
    assert made._math is not None and made._math._workers is None


def test_several_numbers_on_lines_of_their_own_are_no_product(check: MathCheck) -> None:
    assert check.verdicts([("0", boxed("3\n0\n7")), ("6", boxed("2\n3")), ("6", boxed("\n6\n"))]) == [
        "wrong",
        "wrong",
        "right",
    ]
