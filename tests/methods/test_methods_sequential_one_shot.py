"""One example repeated: the ranking by variance, the copies' groups, gains after saturation, a run that resumes."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from truegain.core.component import spec_of
from truegain.core.errors import DataError, SettingError
from truegain.core.forms import members
from truegain.core.settings import loop_with
from truegain.core.types import Problem, Rollout
from truegain.methods.exploration import accuracy_variance, gain_after_saturation, replicate
from truegain.policy.policy import Policy
from truegain.recipes.one_shot_rlvr import one_shot_rlvr
from truegain.rollout.batch import to_columns
from truegain.tasks import make
from truegain.train.folder import RunFolder
from truegain.train.online import Setup, train

HISTORY = st.lists(st.floats(0, 1), min_size=1, max_size=8)


def variance(history: list[float], **knobs: int) -> float:
    return float(accuracy_variance(np.array([history]), **knobs)[0])


def test_the_variances_are_those_of_the_worked_example() -> None:
    # q1: mean 0.5, (4 * 0.25 + 0) / 5 = 0.2. q3: mean 0.15, (3 * 0.0225 + 0.01 + 0.1225) / 5 = 0.04.
    assert variance([0, 1, 0, 1, 0.5]) == pytest.approx(0.2)
    assert variance([0.5] * 5) == 0.0
    assert variance([0, 0, 0, 0.25, 0.5]) == pytest.approx(0.04)
    assert variance([0, 1, 0, 1, 0.5], ddof=1) == pytest.approx(0.25)


@given(HISTORY)
def test_the_variance_equals_the_written_out_sum_and_forgets_the_order_of_epochs(history: list[float]) -> None:
    mean = math.fsum(history) / len(history)
    wanted = math.fsum((a - mean) ** 2 for a in history) / len(history)
    assert variance(history) == pytest.approx(wanted, abs=1e-12)
    assert variance(sorted(history)) == pytest.approx(wanted, abs=1e-12)
    assert variance([*history, math.nan]) == pytest.approx(wanted, abs=1e-12)


def test_examples_always_or_never_solved_or_never_seen_have_no_variance() -> None:
    assert variance([1.0] * 7) == variance([0.0] * 7) == variance([math.nan]) == variance([0.3], ddof=1) == 0.0
    with pytest.raises(DataError, match=r"in \[0, 1\]"):
        variance([1.5])


def test_the_gain_after_saturation_is_measured_from_the_first_saturated_look() -> None:
    test = np.array([0.1, 0.4, 0.3, 0.7])
    assert gain_after_saturation(np.array([0.5, 0.99, 0.8, 1.0]), test) == pytest.approx(0.3)
    assert math.isnan(gain_after_saturation(np.array([0.5, 0.9, 0.8, 0.98]), test))
    assert gain_after_saturation(np.array([0.5, 0.9, 0.8, 0.98]), test, level=0.95) == 0.0
    with pytest.raises(DataError, match="level=0"):
        gain_after_saturation(test, test, level=0.0)


def rollout(problem: Problem) -> Rollout:
    return Rollout(problem, (1,), (2,), (-0.1,), "", "eos", ())


def loop(round: int = 0) -> Any:
    return SimpleNamespace(
        round=round, samples=2, again=lambda problems, n: [rollout(p) for p in problems for _ in range(n)]
    )


def test_every_copy_is_a_group_of_its_own_unless_they_are_to_be_merged() -> None:
    rows = [rollout(Problem(name, "?")) for name in "aab"]
    apart, merged = replicate(loop(), rows, None, copies=3), replicate(loop(), rows, None, copies=3, merge=True)
    assert to_columns(list(apart.add))["group"].tolist() == [0, 0, 1, 1, 2, 2]
    assert to_columns(list(merged.add))["group"].tolist() == [0] * 6
    assert apart.drop == [0, 1, 2] and [kept["id"] for kept in apart.state] == ["a"]
    assert [kept["id"] for kept in replicate(loop(), rows, None, examples=2).state] == ["a", "b"]


def test_the_first_problem_stays_whatever_is_drawn_later() -> None:
    chat = Problem("c", ({"role": "user", "content": "hi"},), "4", {"level": 2})
    state = replicate(loop(), [rollout(chat)], None).state
    # A checkpoint gives tuples back as lists.
    found = replicate(loop(), [rollout(Problem("other", "?"))], state, copies=1)
    assert found.add[0].problem == replace(chat, id="c#0") and found.drop == [0]
    assert replicate(loop(), [], state, copies=1).add[0].problem.id == "c#0"
    assert not replicate(loop(1), [rollout(chat)], state).add
    assert not replicate(loop(), [], None).add
    with pytest.raises(SettingError, match="copies=0"):
        replicate(loop(), [], None, copies=0)


def test_the_ablations_leave_out_what_they_say() -> None:
    choices: list[dict[str, Any]] = [{}, {"policy": False}, {"beta": 0.0}, {"entropy": 0.0}]
    stages = [members(one_shot_rlvr(**knobs).terms[0].surrogate) for knobs in choices]
    names = [[spec_of(member).name for member in stage] for stage in stages]
    assert names[0] == ["ppo_clip", "kl_to_reference", "entropy_bonus"]
    assert names[1:] == [names[0][1:], [names[0][0], names[0][2]], names[0][:2]]
    assert not one_shot_rlvr(beta=0.0).roles


def test_a_run_trains_on_one_problem_and_resumes_to_the_same_numbers(tmp_path: Path) -> None:
    def run(name: str, steps: int) -> list[dict[str, Any]]:
        form = loop_with(one_shot_rlvr(copies=2), steps=steps, samples=3, eval_every=0, save_every=1, lr=0.1)
        with RunFolder(tmp_path / name) as held:
            lines = list(train(Setup(form, Policy.load("table"), make("bandit,level=10"), held), lambda: None))
        return [line for line in lines if line["kind"] == "step"]

    whole = run("whole", 3)
    run("cut", 1)
    cut = run("cut", 3)
    assert [line["loss"] for line in cut] == [line["loss"] for line in whole][1:]
    assert all(line["truegain/rows"] == 6 and line["truegain/drawn_rows"] == 9 for line in whole)
