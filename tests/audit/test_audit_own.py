"""Our own checkers pass; reasoning-gym's known faults are found, each for the reason that the survey has on record."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
from audit_runs import of_task, unfit

from truegain.audit import Subject, problems_of
from truegain.tasks import make


@pytest.mark.parametrize("spec", ["sort", "countdown", "add", "chain", "program"])
def test_our_own_tasks_are_fit(spec: str) -> None:
    found = of_task(spec)
    assert found["verdict"] == "fit", found["sentence"]


@pytest.mark.slow
@pytest.mark.parametrize("spec", ["sort,style=trace", "calculator", "search", "sort+add"])
def test_traces_tools_and_mixtures_are_fit(spec: str) -> None:
    found = of_task(spec)
    assert found["verdict"] == "fit", found["sentence"]


def math_file(folder: Path) -> Path:
    answers = ["1/2", r"\frac{3}{4}", "0.25", "-7", r"2\sqrt{3}", "x+1", "(1,2)", r"\frac{\pi}{4}", "x^2-1", "0"]
    rng, path = random.Random(0), folder / "math.jsonl"
    keys = [rng.choice(answers) if i % 2 else str(rng.randint(2, 400)) for i in range(90)]
    rows = [{"prompt": f"What is case {i} of the list?", "answer": key} for i, key in enumerate(keys)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_a_file_with_the_exact_checker_is_fit_and_takes_fractions_in_any_spelling(tmp_path: Path) -> None:
    found = of_task(str(math_file(tmp_path)))
    assert found["verdict"] == "fit", found["sentence"]
    assert {one["id"]: one["verdict"] for one in found["checks"]}["equal"] == "fit"


@pytest.mark.slow
def test_a_file_judged_by_mathematics_is_fit(tmp_path: Path) -> None:
    pytest.importorskip("math_verify")
    found = of_task(f"{math_file(tmp_path)},checker=math")
    assert found["verdict"] == "fit", found["sentence"]


def test_the_test_split_is_not_opened(tmp_path: Path) -> None:
    task = make(str(math_file(tmp_path)))
    hidden = {task.problem("test", i).id for i in range(task.size("test") or 0)}
    assert not hidden & {problem.id for problem in problems_of(task, 1000, 0)}


KNOWN = {
    "prime_factorization": "failures",
    "game_of_life_halting": "wrong answers",
    "propositional_logic": "wrong answers",
    "puzzle24": "wrong answers",
    "game_of_life": "failures",
    "complex_arithmetic": "junk",
}
"""Faults of reasoning-gym's scorers by the check that finds them; `gym_datasets.json` has the reasons."""


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(KNOWN))
def test_what_is_known_to_be_wrong_in_reasoning_gym_is_found(name: str) -> None:
    pytest.importorskip("reasoning_gym")
    found = of_task(f"gym:{name},unsafe=true", seconds=60.0)
    assert KNOWN[name] in unfit(found), found["sentence"]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["boxnet", "rush_hour"])
def test_a_dataset_without_answers_is_no_pass(name: str) -> None:
    pytest.importorskip("reasoning_gym")
    found = of_task(f"gym:{name},unsafe=true", problems=20, seconds=20.0)
    assert found["verdict"] != "fit"
    (one,) = [c for c in found["checks"] if c["id"] == "references"]
    assert (one["verdict"], one["said"]) == ("not checked", "there are no reference answers")


def test_a_task_is_asked_in_a_process_of_its_own() -> None:
    with Subject("add", is_task=True, count=1) as subject:
        task = make("add")
        problem = task.problem("train", 0)
        said = subject.ask([(problem, f"<answer>{problem.answer}</answer>"), (problem, "")])
    assert [one.value for one in said] == [1.0, 0.0]
