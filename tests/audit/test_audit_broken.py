"""Rewards broken on purpose are unfit, each for its own reason; the same reward unbroken is fit."""

from __future__ import annotations

import importlib.util
from dataclasses import replace

import pytest
from audit_runs import BROKEN, QUICK, of_function, unfit, verdicts

from truegain.audit import Subject
from truegain.core.errors import SettingError, WiringError


def test_a_good_reward_is_fit_and_what_was_not_checked_is_said() -> None:
    found = of_function("good")
    assert found["verdict"] == "fit", found["sentence"]
    left = {one["id"]: one["said"] for one in found["checks"] if one["verdict"] == "not checked"}
    assert left.keys() == {"equal", "unequal", "symmetry", "false right", "false wrong", "best of n"}
    assert all(left.values())
    assert "6 checks were not made" in found["sentence"]


@pytest.mark.parametrize(
    ("name", "reasons"),
    [
        ("of_length", {"references", "length", "injection"}),
        ("of_a_keyword", {"references", "format"}),
        ("of_a_substring", {"spray"}),
        ("obedient_judge", {"injection"}),
        ("crashing", {"failures"}),
        ("centred_in_its_batch", {"batch"}),
        ("silent_off_the_main_thread", {"threads"}),
        ("nothing_but_none", {"references"}),
    ],
)
def test_a_broken_reward_is_unfit_for_its_own_reason(name: str, reasons: set[str]) -> None:
    found = of_function(name)
    assert found["verdict"] == "unfit"
    assert reasons <= unfit(found), found["sentence"]


def test_nothing_else_is_held_against_it() -> None:
    assert unfit(of_function("obedient_judge")) == {"injection"}
    assert unfit(of_function("silent_off_the_main_thread")) == {"threads"}


def test_a_reward_that_changes_from_call_to_call_is_told_from_one_with_a_state() -> None:
    moving, growing = of_function("nondeterministic"), of_function("stateful")
    assert "repeat" in unfit(moving)
    assert verdicts(moving)["threads"] == "not checked"
    assert "state" in unfit(growing)
    assert verdicts(growing)["repeat"] == "fit"


def test_the_silent_zero_is_told_as_such_with_a_counterexample() -> None:
    (one,) = [c for c in of_function("silent_off_the_main_thread")["checks"] if c["id"] == "threads"]
    assert "right answers turn wrong, silently" in one["said"]
    assert one["worst"]["why"] == "1 at first, 0 off the main thread"


def test_a_crash_is_told_with_its_line_and_the_completion() -> None:
    (one,) = [c for c in of_function("crashing")["checks"] if c["id"] == "failures"]
    assert "broken_rewards.py:" in one["said"]
    assert "IndexError: list index out of range" in one["worst"]["why"] or "ValueError" in one["worst"]["why"]


def test_a_reward_that_hangs_is_ended_at_the_deadline_and_is_unfit() -> None:
    found = of_function("hanging", problems=6, rules=replace(QUICK, deadline=0.4))
    assert "failures" in unfit(found)
    (one,) = [c for c in found["checks"] if c["id"] == "failures"]
    assert "no answer within 0.4 s" in one["said"]


def test_a_slow_reward_is_unfit_by_its_latency_and_is_not_asked_for_ever() -> None:
    found = of_function("slow", seconds=2.0, rules=replace(QUICK, slow=0.02))
    assert "latency" in unfit(found)
    assert found["problems"] < 40
    assert found["seconds"] < 30
    assert any("--max-seconds" in note for note in found["notes"])


def test_verl_signatures_are_told_by_their_parameters_and_their_keys_are_compared() -> None:
    good = of_function("compute_score")
    assert (good["subject"]["kind"], good["verdict"]) == ("verl", "fit")
    assert verdicts(good)["keys"] == "fit"
    assert of_function("awaited_score", problems=8)["subject"]["kind"] == "verl"
    assert "keys" in unfit(of_function("other_keys", problems=8))


def test_too_few_problems_are_no_pass() -> None:
    found = of_function("good", problems=8)
    assert found["verdict"] == "cannot tell"
    assert "too few to tell" in found["sentence"]


def test_what_cannot_be_called_is_refused_in_one_line() -> None:
    with pytest.raises(SettingError, match="takes text; a reward takes completions"):
        Subject(f"{BROKEN}:neither", is_task=False)
    with pytest.raises(SettingError, match=r"no function 'goof'.*did you mean 'good'"):
        Subject(f"{BROKEN}:goof", is_task=False)
    with pytest.raises(WiringError, match="needs the column 'difficulty'"):
        of_function("wants_a_column")


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("math_verify") is None, reason="needs math-verify")
def test_math_verify_called_off_the_main_thread_is_a_silent_zero() -> None:
    found = of_function("math_verify_swallowed", problems=12, form="boxed", rules=replace(QUICK, deadline=12.0))
    assert "threads" in unfit(found)
    (one,) = [c for c in found["checks"] if c["id"] == "threads"]
    assert "silently" in one["said"]
