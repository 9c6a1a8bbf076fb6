"""Gym tasks: reasoning-gym's datasets, made and judged in a worker that is not trusted."""

from __future__ import annotations

import importlib.util
import os
import re
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from truegain.core.errors import DataError, SettingError
from truegain.core.types import SPLITS, Abstain, Problem, Rollout, Task
from truegain.tasks import gym, make
from truegain.tasks.gym import Gym
from truegain.tasks.mixture import Mixture

pytest.importorskip("reasoning_gym")

USABLE = tuple(name.removeprefix(gym.PREFIX) for name in gym.names())
FAST = (
    "acre",
    "binary_matrix",
    "countdown",
    "gsm_symbolic",
    "leg_counting",
    "list_functions",
    "mini_sudoku",
    "tsumego",
)
JUNK = ("", "x", "-98765", "lorem ipsum " * 100, "{}", "[]", "9**9**9**9", "nan")


def said(problem: Problem, text: str) -> Rollout:
    """A completion of this text."""
    return Rollout(problem, (), (), (), text, "stop", ())


def judged(task: Task, problem: Problem, answer: str | None) -> dict[str, float]:
    """The facts of a completion that gives this answer."""
    found = task.score(problem, said(problem, f"so <answer>{answer}</answer>"))
    assert not isinstance(found, Abstain), found.reason
    return dict(found)


def question(problem: Problem) -> str:
    """The prompt's text."""
    return problem.prompt if isinstance(problem.prompt, str) else problem.prompt[0]["content"]


def holds(name: str) -> None:
    """Three problems of a dataset: each has an answer that is right, and junk is not."""
    task = Gym(name)
    for index, split in enumerate(SPLITS):
        problem = task.problem(split, index)
        began = time.monotonic()
        assert judged(task, problem, problem.answer) == {"correct": 1.0, "score": 1.0, "answered": 1.0}
        junk = [judged(task, problem, answer) for answer in (*JUNK, question(problem).replace("answer>", ""))]
        assert all(facts["correct"] == 0.0 and 0.0 <= facts["score"] < 1.0 for facts in junk)
        assert time.monotonic() - began < (len(junk) + 1) * task.deadline


@pytest.mark.parametrize("name", FAST)
def test_a_right_answer_is_right_and_junk_is_not(name: str) -> None:
    holds(name)


@pytest.mark.slow
@pytest.mark.parametrize("name", USABLE)
def test_of_every_usable_dataset_a_right_answer_is_right_and_junk_is_not(name: str) -> None:
    holds(name)


def test_the_table_speaks_of_every_dataset_of_the_installed_version() -> None:
    from importlib.metadata import version

    from reasoning_gym.factory import DATASETS

    assert set(USABLE) | set(gym.defects()) == set(DATASETS)
    assert not set(USABLE) & set(gym.defects())
    assert version("reasoning_gym") in gym._TABLE.read_text()


def test_splits_share_no_question_even_where_there_are_few() -> None:
    sums: dict[str, Any] = {"min_terms": 2, "max_terms": 2, "min_digits": 1, "max_digits": 1}
    task, other = Gym("chain_sum", **sums), Gym("chain_sum", seed=7, chat=False)
    asked = {split: {question(task.problem(split, index)) for index in range(120)} for split in SPLITS}
    assert all(len(questions) > 20 for questions in asked.values())
    assert not asked["train"] & asked["dev"] and not asked["test"] & (asked["train"] | asked["dev"])
    more = {split: {question(other.problem(split, index)) for index in range(40)} for split in SPLITS}
    for split in SPLITS:
        assert not more[split] & set.union(*(asked[rest] for rest in SPLITS if rest != split))


def test_another_process_makes_the_same_problems() -> None:
    names = ("acre", "leg_counting", "word_sorting", "gsm_symbolic")
    first = [Gym(name).problem(split, 11) for name in names for split in SPLITS]
    gym._pool.cache_clear()
    assert [Gym(name).problem(split, 11) for name in names for split in SPLITS] == first


def test_a_seed_and_an_index_change_the_problem() -> None:
    task, other = Gym("leg_counting"), Gym("leg_counting", seed=1)
    found = [task.problem("train", 0), task.problem("train", 1), other.problem("train", 0)]
    assert len({problem.id for problem in found}) == 3
    assert task.problem("train", 0) == found[0]
    assert task.size("train") is None
    with pytest.raises(IndexError, match="indices start at 0"):
        task.problem("train", -1)


def test_a_problem_tells_the_form_of_the_answer_and_hides_its_own() -> None:
    problem = Gym("leg_counting", chat=False).problem("dev", 0)
    assert isinstance(problem.prompt, str) and problem.prompt.endswith("nothing after it.\n")
    assert "<answer></answer>" in problem.prompt
    chat = Gym("leg_counting").problem("dev", 0)
    assert chat.prompt == ({"role": "user", "content": problem.prompt},) and chat.id == problem.id
    assert problem.meta["metadata"]["total_legs"] == int(str(problem.answer))


def test_the_last_answer_block_counts_and_none_is_wrong() -> None:
    task = Gym("leg_counting")
    problem = task.problem("train", 0)
    right = problem.answer
    twice = task.score(problem, said(problem, f"<answer>x</answer> no <answer> {right} </answer><eos>"))
    assert twice == {"correct": 1.0, "score": 1.0, "answered": 1.0}
    for text in (f"it is {right}", f"\\boxed{{{right}}}", f"<answer>{right}", f"{right}</answer>", ""):
        assert task.score(problem, said(problem, text)) == {"correct": 0.0, "score": 0.0, "answered": 0.0}


def test_partial_credit_is_a_score_and_not_correct() -> None:
    task = Gym("time_intervals")
    found = [judged(task, task.problem("train", index), "3 days, 01:00:00") for index in range(12)]
    assert any(0.0 < facts["score"] < 1.0 for facts in found)
    assert all(facts["correct"] == float(facts["score"] == 1.0) for facts in found)


def test_a_huge_answer_is_bounded() -> None:
    task = Gym("simple_integration")
    problem = task.problem("train", 0)
    began = time.monotonic()
    assert judged(task, problem, "x" * 5_000_000)["answered"] == 0.0
    for answer in (
        "(" * 4_000 + "x" + ")" * 4_000,
        "x+" * 4_999 + "x",
        "9**9**9**9",
        "((9**999)**999)**999",
        "-" * 9_999,
    ):
        assert judged(task, problem, answer)["correct"] == 0.0
    assert time.monotonic() - began < 3.0


def test_a_formula_in_other_words_is_right() -> None:
    task = Gym("polynomial_multiplication", unsafe=True)
    problem = task.problem("train", 0)
    assert judged(task, problem, f" ({problem.answer}) + 0*sin(0)")["correct"] == 1.0


@pytest.mark.parametrize("name", ["binary_matrix", "countdown", "n_queens", "simple_integration", "string_insertion"])
def test_an_answer_is_never_run_as_code(name: str, tmp_path: Path) -> None:
    task = Gym(name)
    problem = task.problem("train", 0)
    for form in ("open({0!r}, 'w')", "[open({0!r}, 'w')]", "__import__('os').mkdir({0!r})", "x.f(open({0!r}, 'w'))"):
        assert judged(task, problem, form.format(str(tmp_path / "canary")))["correct"] == 0.0
    assert not list(tmp_path.iterdir())


def test_a_defective_dataset_is_refused_with_its_reason_unless_asked_for() -> None:
    with pytest.raises(SettingError, match=r"gym:prime_factorization is refused: its scorer fails on 'x'.*unsafe=true"):
        make("gym:prime_factorization")
    task = make("gym:prime_factorization,unsafe=true")
    problem = task.problem("train", 0)
    assert judged(task, problem, problem.answer)["correct"] == 1.0
    found = task.score(problem, said(problem, "<answer>x</answer>"))
    assert isinstance(found, Abstain) and re.search("^gym:prime_factorization: .*ValueError", found.reason)


def test_the_known_unsafe_scorers_are_in_the_table() -> None:
    assert {"game_of_life_halting", "propositional_logic", "prime_factorization"} <= set(gym.defects())


def test_knobs_reach_the_dataset_from_a_spec() -> None:
    task = cast(Gym, make("gym:leg_counting,min_animals=2,max_animals=2,seed=3,deadline=2,chat=false"))
    assert task.knobs == {"min_animals": 2, "max_animals": 2} and (task.seed, task.deadline) == (3, 2.0)
    assert all(len(task.problem("train", index).meta["metadata"]["animals"]) <= 2 for index in range(20))
    listed = cast(Gym, make("gym:advanced_geometry,task_types=angle_measure"))
    assert listed.knobs == {"task_types": ["angle_measure"]}


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("gym:leg_countin", r"unknown task 'gym:leg_countin' \(did you mean 'leg_counting'\?\)"),
        ("gym:leg_counting,max_animal=4", r"unknown key 'max_animal' \(did you mean 'max_animals'\?\)"),
        ("gym:leg_counting,size=4", "unknown key 'size'"),
        ("gym:leg_counting,max_animals=many", "max_animals cannot be 'many'; the default is 10"),
        ("gym:leg_counting,max_animals=-1", "gym:leg_counting: max_animals must be"),
        ("gym:leg_counting,deadline=0", "deadline must be a positive number"),
        ("gym:leg_counting,unsafe=perhaps", "unsafe cannot be 'perhaps'"),
        ("gym:leg_counting,name=gcd", "unknown key 'name'"),
        ("gym:", "unknown task 'gym:'"),
        ("leg_counting", r"unknown task 'leg_counting' \(did you mean 'gym:leg_counting'\?\)"),
    ],
)
def test_a_wrong_spec_is_refused_with_what_is_right(spec: str, message: str) -> None:
    with pytest.raises(SettingError, match=message) as caught:
        make(spec)
    assert "\n" not in str(caught.value)


def test_without_the_package_the_error_names_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    gym._pool.cache_clear()
    with pytest.raises(SettingError, match=r"pip install 'truegain\[gym\]'"):
        make("gym:leg_counting")


def test_a_mixture_draws_from_gym_tasks_as_from_others() -> None:
    task = cast(Mixture, make("gym:leg_counting,weight=2+sort+gym:gcd"))
    assert task.weights == (0.5, 0.25, 0.25)
    found = [task.problem("train", index) for index in range(40)]
    assert {problem.meta["member"] for problem in found} == {0, 1, 2}
    assert all(judged(task, problem, problem.answer)["correct"] == 1.0 for problem in found)


def test_a_dataset_without_enough_questions_says_so() -> None:
    task = Gym("count_bits", min_n=5, max_n=5)
    empty = 0
    for split in SPLITS:
        try:
            task.problem(split, 0)
        except DataError as error:
            empty += "few different ones" in str(error)
    assert empty == 2


def test_a_killed_worker_is_replaced_and_its_problem_still_judged() -> None:
    task = Gym("leg_counting")
    problem = task.problem("train", 0)
    for pid in gym._pool().pids:
        os.kill(pid, signal.SIGKILL)
    found = [task.score(problem, said(problem, f"<answer>{problem.answer}</answer>")) for _ in range(2)]
    assert found[1] == {"correct": 1.0, "score": 1.0, "answered": 1.0}
    other = Problem(problem.id, problem.prompt, problem.answer, {**problem.meta, "number": 5})
    changed = task.score(other, said(other, "<answer>1</answer>"))
    assert isinstance(changed, Abstain) and "now makes another one" in changed.reason


@pytest.fixture
def scripted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Gym]:
    """A task whose scorer does what the answer says, and whose maker hands out one question."""
    worker = tmp_path / "worker.py"
    worker.write_text(
        "import time\n"
        "def answer(payload):\n"
        "    if payload['do'] == 'describe': return {'knobs': {}}\n"
        "    if payload['do'] == 'problem':\n"
        "        return {'number': 1, 'mark': 'm', 'metadata': {}, 'question': 'q?', 'answer': '1'}\n"
        "    return {'score': eval(payload['answer'], {'time': time})}\n"
        "def disarmed(call): return call\n"
    )
    monkeypatch.setattr(gym, "_WORKER", str(worker))
    gym._pool.cache_clear()
    yield Gym("leg_counting", deadline=0.3)
    gym._pool.cache_clear()


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ("1/0", "ZeroDivisionError"),
        ("time.sleep(60)", "no answer within 0.3 s"),
        ("float('nan')", "nan, which is not from 0 to 1"),
        ("float('inf')", "inf, which is not from 0 to 1"),
        ("1.5", "1.5, which is not from 0 to 1"),
        ("-0.1", "-0.1, which is not from 0 to 1"),
        ("None", "a NoneType, not a number"),
        ("'1'", "a str, not a number"),
        ("__import__('os')._exit(3)", "worker died"),
        ("[0] * 10**11", "MemoryError"),
    ],
)
def test_a_scorer_that_misbehaves_abstains_with_the_reason(scripted: Gym, answer: str, reason: str) -> None:
    problem = scripted.problem("train", 0)
    found = scripted.score(problem, said(problem, f"<answer>{answer}</answer>"))
    assert isinstance(found, Abstain) and found.reason.startswith("gym:leg_counting: ") and reason in found.reason


@pytest.mark.parametrize(("answer", "correct"), [("1", 1.0), ("True", 1.0), ("1 - 1e-12", 1.0), ("0.999", 0.0)])
def test_only_a_score_of_one_is_correct(scripted: Gym, answer: str, correct: float) -> None:
    problem = scripted.problem("train", 0)
    facts: Any = judged(scripted, problem, answer)
    assert facts["correct"] == correct and facts["score"] == pytest.approx(float(eval(answer)))
