"""Whole runs: arms, controls and their judgement; reward functions by path; time; folders; the dry run."""

from __future__ import annotations

import json
import os
import tempfile
from contextlib import closing
from dataclasses import replace
from functools import partial
from itertools import takewhile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from train_runs import BANDIT, final_weights, form_of, logged

from truegain.core.errors import DataError, RunError, SettingError, WiringError
from truegain.methods.evaluation import paired_difference
from truegain.policy.policy import Policy
from truegain.recipes.controls import blind, on_user_score
from truegain.recipes.grpo import grpo
from truegain.recipes.sft import sft
from truegain.tasks import make
from truegain.tasks.functions import RewardFunction
from truegain.train import online, truth
from truegain.train import run as running
from truegain.train.dry import dry_run
from truegain.train.folder import RunFolder, read_lines, read_settings
from truegain.train.launch import StopSignal
from truegain.train.run import Plan, execute, more_sft, proxy_is_gold

SIZES = {"dev": 4, "test": 8, "samples": 2}


def plan_of(out: Path, form: Any = None, **more: Any) -> Plan:
    given: dict[str, Any] = {"recipe": "grpo", "model": "table", "task": BANDIT, "sizes": SIZES, **more}
    return Plan(form=form or form_of(), out=out, **given)


def done(plan: Plan, stop: StopSignal | None = None) -> list[dict[str, Any]]:
    return list(execute(plan, stop or StopSignal()))


def kinds(events: list[dict[str, Any]], kind: str, arm: str = "trained") -> list[dict[str, Any]]:
    return [event for event in events if event["kind"] == kind and event["arm"] == arm]


def records_of(folder: Path) -> list[dict[str, Any]]:
    return read_lines(folder / "evals" / "records.jsonl")


def asked_to_stop(plan: Plan, when: Any) -> list[dict[str, Any]]:
    """Run a plan as a user who asks to stop at the first event for which ``when`` holds."""
    stop, events = StopSignal(), []
    for event in execute(plan, stop):
        events.append(event)
        if when(event):
            stop._asked = "interrupted"
    return events


# Arms


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]]]:
    """A run that nothing interrupted: its folder and its events. Not to be written to."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    return folder, done(plan_of(folder))


def test_a_run_trains_then_judges_base_and_trained_and_doing_it_again_adds_nothing(whole: Any) -> None:
    folder, events = whole
    assert events[0]["kind"] == "arm"
    assert events[-1] == {"kind": "done", "folder": str(folder), "seed": 0, "arm": "trained"}
    assert [event["step"] for event in kinds(events, "step")] == list(range(1, 13))
    assert all({"kind", "seed", "arm"} <= event.keys() for event in events)
    found = records_of(folder)
    for arm in ("base", "trained"):
        at_one = [r for r in found if (r["arm"], r["split"], r["temperature"]) == (arm, "test", 1.0)]
        assert len(at_one) == SIZES["test"] * SIZES["samples"]
        assert len({(r["problem"], r["sample"]) for r in at_one}) == len(at_one)
    assert {r["arm"] for r in found} == {"base", "trained"} and {r["step"] for r in found} == {12}
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    again = done(plan_of(folder))
    assert [event["kind"] for event in again] == ["done"]
    after = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert {p.name for p in before if before[p] != after[p]} <= {".lock"} and before.keys() == after.keys()


def test_the_test_split_is_opened_only_after_training_has_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Watched:
        """The bandit; notes which split is asked, and after how many logged steps."""

        def __init__(self) -> None:
            self.inner: Any = make(BANDIT)
            self.asked: list[tuple[str, int]] = []

        def __getattr__(self, name: str) -> Any:
            return getattr(self.inner, name)

        def problem(self, split: Any, index: int) -> Any:
            steps = [line for line in read_lines(tmp_path / "run" / "log.jsonl") if line["kind"] == "step"]
            self.asked.append((split, len(steps)))
            return self.inner.problem(split, index)

    task = Watched()
    monkeypatch.setattr(running, "parse", lambda *_, **__: task)
    done(plan_of(tmp_path / "run"))
    assert {steps for split, steps in task.asked if split == "test"} == {12}
    assert {steps for split, steps in task.asked if split == "dev"} >= {0, 5, 10, 12}
    before_test = list(takewhile(lambda asked: asked[0] != "test", task.asked))
    assert ("train", 11) in before_test


def test_a_run_that_is_stopped_between_arms_judges_only_the_missing_ones(tmp_path: Path, whole: Any) -> None:
    plan = plan_of(tmp_path / "run")
    first = asked_to_stop(plan, lambda e: e["kind"] == "judge" and e["arm"] == "trained")
    assert not kinds(first, "done") and {r["arm"] for r in records_of(tmp_path / "run")} == {"base"}
    second = done(plan)
    assert not kinds(second, "step") and not kinds(second, "judge", "base") and kinds(second, "judge", "trained")
    assert records_of(tmp_path / "run") == records_of(whole[0])


def test_a_run_that_is_dropped_while_an_arm_is_judged_judges_that_arm_whole(tmp_path: Path, whole: Any) -> None:
    plan = plan_of(tmp_path / "run")
    with closing(execute(plan, StopSignal())) as going:  # pyright: ignore[reportArgumentType]
        next(event for event in going if event["kind"] == "judge" and "test" in event["text"])
    assert records_of(tmp_path / "run") == []
    done(plan)
    assert records_of(tmp_path / "run") == records_of(whole[0])


def test_without_training_the_difference_of_the_arms_is_chance(tmp_path: Path) -> None:
    sizes = {"dev": 4, "test": 65, "samples": 4}
    events = done(plan_of(tmp_path / "run", form_of(steps=0), sizes=sizes))
    assert not kinds(events, "step") and kinds(events, "done")
    golds = {
        arm: np.array([
            r["gold"]
            for r in records_of(tmp_path / "run")
            if (r["arm"], r["split"], r["temperature"]) == (arm, "test", 1.0)
        ]).reshape(65, 4)
        for arm in ("base", "trained")
    }  # fmt: skip
    found = paired_difference(golds["base"], golds["trained"])
    assert found.low < 0 < found.high
    assert found.se > 0 and not np.array_equal(golds["base"], golds["trained"]), "the arms draw for themselves"


def test_a_judged_run_has_its_length_and_longer_ones_want_a_folder_of_their_own(tmp_path: Path) -> None:
    done(plan_of(tmp_path / "run", form_of(steps=3)))
    with pytest.raises(DataError, match=r"steps: 3 -> 9\): resume it with the old ones, or give another folder"):
        done(plan_of(tmp_path / "run", form_of(steps=9)))
    # A run that was not judged yet may go on for longer.
    plan = plan_of(tmp_path / "open", form_of(steps=3))
    asked_to_stop(plan, lambda e: e["kind"] == "step" and e["step"] == 3)
    events = done(plan_of(tmp_path / "open", form_of(steps=5)))
    assert [e["step"] for e in kinds(events, "step")] == [4, 5]
    assert kinds(events, "note")[0]["text"] == "changed since the run began: settings.loop.steps: 3 -> 5"


def test_every_seed_has_a_folder_of_its_own_and_a_stop_ends_the_row_of_seeds(tmp_path: Path) -> None:
    plan = plan_of(tmp_path / "run", form_of(steps=2), seeds=(3, 4))
    events = done(plan)
    assert [e["folder"] for e in events if e["kind"] == "done"] == [str(tmp_path / "run" / f"seed-{n}") for n in (3, 4)]
    assert read_settings(tmp_path / "run" / "seed-4")["seed"] == 4
    a, b = (logged(tmp_path / "run" / f"seed-{n}") for n in (3, 4))
    assert a != b
    asked_to_stop(replace(plan, out=tmp_path / "cut"), lambda e: e["kind"] == "step")
    assert not (tmp_path / "cut" / "seed-4").exists()


# Controls


@pytest.fixture(scope="module")
def controlled(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]]]:
    """A small run on sort with both control arms."""
    folder = tmp_path_factory.mktemp("controls") / "run"
    form = form_of(steps=3, max_tokens=6)
    return folder, done(plan_of(folder, form, task="sort,level=2", blind=blind(form), sft=sft()))


def test_the_random_reward_arm_takes_as_many_steps_as_the_trained_one_from_the_same_start(controlled: Any) -> None:
    folder, events = controlled
    assert [e["step"] for e in kinds(events, "step", "control:random-reward")] == [1, 2, 3]
    trained, control = (
        [line for line in logged(place) if line["kind"] == "step"]
        for place in (folder, folder / "controls" / "random-reward")
    )
    assert control[0]["completions/mean_length"] == trained[0]["completions/mean_length"], "the same first samples"
    assert "rewards/random_reward/mean" in control[0] and "rewards/outcome/mean" not in control[0]
    assert final_weights(folder) != final_weights(folder / "controls" / "random-reward")


def test_all_four_arms_are_judged_once_with_the_trained_arms_step(controlled: Any) -> None:
    folder, _ = controlled
    found = records_of(folder)
    arms = ("base", "trained", "control:random-reward", "control:more-sft")
    assert [arm for i, arm in enumerate(r["arm"] for r in found) if i == 0 or arm != found[i - 1]["arm"]] == list(arms)
    assert {r["step"] for r in found} == {3}


def test_more_sft_in_a_run_spends_at_least_what_the_trained_arm_spent(controlled: Any) -> None:
    folder, events = controlled
    spent = [line for line in logged(folder) if line["kind"] == "step"][-1]["ledger"]["flops"]
    arm = kinds(events, "arm", "control:more-sft")
    assert [event["flops"] for event in arm] == [spent] and spent > 0
    steps = [e["ledger"]["flops"] for e in kinds(events, "step", "control:more-sft")]
    assert steps[-1] >= spent and all(flops < spent for flops in steps[:-1])


def test_more_sft_ends_with_the_step_that_uses_the_budget_up_and_counts_every_token_of_it() -> None:
    task, policy = make("sort,level=2"), Policy.load("table")
    start = policy.weights()["weight"].clone()
    one = next(more_sft(sft(), Policy.load("table"), task, 10**15, 0.1, seed=0))
    assert one["progress"] < 1
    # An example is <bos>, the prompt, the demonstration and its end; 8192 tokens make a step, the last example whole.
    tokens = one["ledger"]["trained"]
    assert 8192 <= tokens < 8192 + 60
    assert one["ledger"]["flops"] == 3 * 2 * 108 * tokens
    lines = list(more_sft(sft(), policy, task, one["ledger"]["flops"] + 1, 0.1, seed=0))
    assert [line["step"] for line in lines] == [1, 2] and lines[0]["ledger"] == one["ledger"]
    assert lines[-1]["ledger"]["flops"] < 2.02 * one["ledger"]["flops"] and lines[-1]["progress"] == 1.0
    assert not policy.model.training
    assert float((policy.weights()["weight"] - start).abs().max()) > 0.001


def test_a_task_without_demonstrations_says_why_an_arm_is_missing(tmp_path: Path) -> None:
    form = form_of(steps=2)
    events = done(plan_of(tmp_path / "run", form, blind=blind(form), sft=sft()))
    notes = [e["text"] for e in kinds(events, "note", "control:more-sft")]
    assert notes == ["no more-SFT control: this task has no demonstrations"]
    assert {r["arm"] for r in records_of(tmp_path / "run")} == {"base", "trained", "control:random-reward"}


def test_a_control_that_is_interrupted_goes_on_where_it_was(tmp_path: Path) -> None:
    form = form_of(steps=6, save_every=2)
    plans = [plan_of(tmp_path / name, form, blind=blind(form), sft=sft()) for name in ("whole", "run")]
    done(plans[0])
    first = asked_to_stop(plans[1], lambda e: e["arm"] == "control:random-reward" and e.get("step") == 3)
    assert kinds(first, "step", "control:random-reward")[-1]["step"] == 3
    second = done(plans[1])
    assert [e["step"] for e in kinds(second, "step", "control:random-reward")] == [4, 5, 6]
    assert not kinds(second, "judge", "base") and not kinds(second, "judge", "trained")
    for place in ("", "controls/random-reward"):
        assert logged(tmp_path / "run" / place) == logged(tmp_path / "whole" / place)
        assert final_weights(tmp_path / "run" / place) == final_weights(tmp_path / "whole" / place)
    assert records_of(tmp_path / "run") == records_of(tmp_path / "whole")


def test_proxy_and_gold_are_one_only_when_the_reward_is_the_checker_alone() -> None:
    from truegain.methods import reward

    assert proxy_is_gold(grpo())
    assert not proxy_is_gold(on_user_score(grpo())) and not proxy_is_gold(blind(grpo()))
    assert not proxy_is_gold(replace(grpo(), reward=(reward.outcome, reward.user_score)))


# Reward functions by path

REWARDS = """
import time

def raises(completions, **kwargs):
    raise KeyError("no such thing")

def short(completions, **kwargs):
    return [1.0]

def never(completions, **kwargs):
    time.sleep(600)

def some(prompts, completions, **kwargs):
    return [None if p[-1] in "aeiou" else float("nan") if p[-1] in "xyz" else float(c < "P")
            for p, c in zip(prompts, completions)]

def vowel(prompts, completions, **kwargs):
    return [float(p[-1] in "aeiou") for p in prompts]

def needs(completions, soluton):
    return [0.0] * len(completions)
"""


@pytest.fixture(scope="module")
def rewards(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("rewards") / "mine.py"
    path.write_text(REWARDS)
    return str(path)


@pytest.mark.parametrize(
    ("name", "error", "told"),
    [
        (
            "raises",
            RunError,
            r"step 1: every rollout's check abstained \(each time: raises: mine.py:5: KeyError: 'no such thing'\)",
        ),
        ("never", RunError, r"step 1: every rollout's check abstained \(each time: never: .*0\.3"),
        ("short", RunError, r"returned 1 rewards for 16 completions"),
        ("needs", WiringError, r"needs the column 'soluton' \(did you mean 'solution'\?\)"),
    ],
)
def test_a_reward_function_that_fails_ends_the_run_in_one_line_that_says_why(
    tmp_path: Path, rewards: str, name: str, error: type[Exception], told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[RewardFunction] = []

    def started(path: str, deadline: float) -> RewardFunction:
        made.append(RewardFunction(path, 0.3 if name == "never" else deadline))
        return made[-1]

    monkeypatch.setattr(running, "RewardFunction", started)
    form = on_user_score(form_of(eval_every=0))
    with pytest.raises(error, match=told) as caught:
        done(plan_of(tmp_path / "run", form, rewards=(f"{rewards}:{name}",)))
    assert "\n" not in str(caught.value)
    assert logged(tmp_path / "run") == []
    with RunFolder(tmp_path / "run"):
        pass  # the folder is free again


def test_rows_that_a_reward_function_leaves_open_are_counted_and_the_run_goes_on(tmp_path: Path, rewards: str) -> None:
    form = on_user_score(form_of(steps=4, eval_every=0))
    events = done(plan_of(tmp_path / "run", form, rewards=(f"{rewards}:some=2.5",)))
    seen = 0
    for line in kinds(events, "step"):
        prompts = online.problems(make(BANDIT), "train", (line["step"] - 1) * 4, 4, 0)
        open_ = [p for p in prompts if str(p.prompt)[-1] in "aeiouxyz"]
        assert line["truegain/abstained"] == 4 * len(open_)
        assert line["truegain/trained_rows"] <= 16 - 4 * len(open_)
        assert 0 <= line["reward"] <= 2.5
        seen += len(open_)
    assert seen > 0
    for record in records_of(tmp_path / "run"):
        last = record["prompt"][-1]
        assert record["gold"] in (0.0, 1.0)
        assert record["proxy"] is None if last in "aeiouxyz" else record["proxy"] in (0.0, 2.5)
        why = "some: returned None" if last in "aeiou" else "some: returned nan" if last in "xyz" else None
        assert record["abstained"] == why


def test_the_weighted_sum_of_several_functions_is_the_reward(tmp_path: Path, rewards: str) -> None:
    form = on_user_score(form_of(steps=1, eval_every=1, eval_problems=60))
    paths = (f"{rewards}:vowel=3", f"{rewards}:vowel=-0.5", f"{rewards}:vowel")
    events = done(plan_of(tmp_path / "run", form, rewards=paths))
    assert all(r["proxy"] == (3.5 if r["prompt"][-1] in "aeiou" else 0.0) for r in records_of(tmp_path / "run"))
    assert kinds(events, "step")[0]["frac_reward_zero_std"] == 1.0


@pytest.mark.parametrize("weight", ["nan", "inf", "two", ""])
def test_a_weight_that_is_no_finite_number_is_refused_before_a_function_is_started(
    tmp_path: Path, rewards: str, weight: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(running, "RewardFunction", lambda path: pytest.fail(f"{path} was started"))
    plan = plan_of(
        tmp_path / "run", on_user_score(form_of()), rewards=(f"{rewards}:vowel", f"{rewards}:vowel={weight}")
    )
    with pytest.raises(SettingError, match="must be a finite number"):
        done(plan)


def test_when_one_of_several_functions_cannot_be_loaded_the_others_are_ended(
    tmp_path: Path, rewards: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed: list[str] = []

    class Watched(RewardFunction):
        def close(self) -> None:
            closed.append(self.name)
            super().close()

    monkeypatch.setattr(running, "RewardFunction", Watched)
    plan = plan_of(tmp_path / "run", on_user_score(form_of()), rewards=(f"{rewards}:vowel", f"{rewards}:vowl"))
    with pytest.raises(SettingError, match="vowl"):
        done(plan)
    assert "vowel" in closed


# Time


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Time that only sampling takes: one second per step, and half a second per look."""
    at = SimpleNamespace(now=100.0)
    fake = SimpleNamespace(perf_counter=lambda: at.now, monotonic=lambda: at.now)
    for module in (online, truth, running):
        monkeypatch.setattr(module, "time", fake)
    resample, draw = online.resample, truth.draw

    def sampled(*a: Any) -> Any:
        at.now += 1.0
        return resample(*a)

    def drawn(*a: Any, **k: Any) -> Any:
        at.now += 0.5
        return draw(*a, **k)

    monkeypatch.setattr(online, "resample", sampled)
    monkeypatch.setattr(truth, "draw", drawn)
    return at


ENDLESS = form_of(steps=10**9, eval_every=5, save_every=2)


def test_time_ends_a_run_at_a_step_border_with_a_checkpoint(tmp_path: Path, clock: SimpleNamespace) -> None:
    events = done(plan_of(tmp_path / "run", ENDLESS, max_seconds=7.2))
    # The look at 0 ends at 0.5, steps 1 to 5 at 5.5, the look at 5 at 6.0, step 6 at 7.0; step 7 is the last to begin.
    assert [e["step"] for e in kinds(events, "step")] == [1, 2, 3, 4, 5, 6, 7]
    assert kinds(events, "note")[-1]["text"] == "stopped after step 7: time is up"
    assert (tmp_path / "run" / "checkpoints" / "step-000007").is_dir()
    assert kinds(events, "done") and {r["step"] for r in records_of(tmp_path / "run")} == {7}


def test_a_resumed_run_only_gets_the_time_that_is_left(tmp_path: Path, clock: SimpleNamespace) -> None:
    plan = plan_of(tmp_path / "run", ENDLESS, max_seconds=7.2)
    asked_to_stop(plan, lambda e: e["kind"] == "step" and e["step"] == 3)
    clock.now += 1000.0
    events = done(plan)
    assert kinds(events, "arm")[0]["spent"] == 3.5
    assert [e["step"] for e in kinds(events, "step")] == [4, 5, 6, 7]


def test_steps_that_were_lost_with_a_killed_sitting_are_not_charged_twice(
    tmp_path: Path, clock: SimpleNamespace
) -> None:
    plan = plan_of(tmp_path / "run", ENDLESS, max_seconds=7.2)
    with closing(execute(plan, StopSignal())) as going:  # pyright: ignore[reportArgumentType]
        next(event for event in going if event.get("step") == 3 and event["kind"] == "step")
    clock.now += 1000.0
    events = done(plan)
    assert [e["step"] for e in kinds(events, "step")] == [3, 4, 5, 6, 7], "resumed after step 2"


def test_a_finished_timed_run_is_not_trained_further(tmp_path: Path, clock: SimpleNamespace) -> None:
    plan = plan_of(tmp_path / "run", ENDLESS, max_seconds=3.0)
    done(plan)
    before = logged(tmp_path / "run")
    # Even where saving and loading took time that no line of the log holds.
    path = tmp_path / "run" / "log.jsonl"
    lines = [{**line, "seconds": 0.0} for line in read_lines(path)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert not kinds(done(plan), "step")
    assert logged(tmp_path / "run") == before


# Folders


def test_a_second_run_in_the_same_folder_is_refused_and_names_the_holder(tmp_path: Path) -> None:
    with (
        RunFolder(tmp_path / "run"),
        pytest.raises(RunError, match=rf"run is in use by process {os.getpid()}: wait for it, stop it") as caught,
    ):
        done(plan_of(tmp_path / "run"))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("seeds", [(0,), (0, 1)])
@pytest.mark.parametrize("place", ["file", "file/run"])
def test_a_file_in_the_place_of_the_folder_is_refused_in_one_line(
    tmp_path: Path, place: str, seeds: tuple[int, ...]
) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(DataError, match=r"file.*give another") as caught:
        done(plan_of(tmp_path / place, seeds=seeds))
    assert "\n" not in str(caught.value) and (tmp_path / "file").read_text() == "x"


def test_other_settings_in_the_same_folder_are_refused_by_name(tmp_path: Path) -> None:
    plan = plan_of(tmp_path / "run")
    asked_to_stop(plan, lambda e: e["kind"] == "step")
    for other, told in (
        (form_of(lr=0.2), r"settings\.loop\.lr: 0\.1 -> 0\.2"),
        (replace(form_of(), reward=partial(plan.form.reward[0], right=2.0)), r"outcome\.right: 1\.0 -> 2\.0"),
    ):
        with pytest.raises(DataError, match=told):
            done(replace(plan, form=other))
    with pytest.raises(DataError, match="task: "):
        done(replace(plan, task="bandit,level=11"))


# The dry run


def test_a_dry_run_measures_a_step_and_leaves_nothing_behind(
    tmp_path: Path, rewards: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    plan = plan_of(tmp_path / "run", on_user_score(grpo(beta=0.1)), rewards=(f"{rewards}:vowel",))
    found = dry_run(plan)
    assert found["seconds_per_step"] > 0 and found["memory_bytes"] > 0 and found["parameters"] == 108 * 108
    assert sorted(path.name for path in tmp_path.iterdir()) == ["tmp"] and list((tmp_path / "tmp").iterdir()) == []
    first = online.problems(make(BANDIT), "train", 0, 1, 0)[0]
    assert found["prompt"] == f"<bos>{first.prompt}" and found["prompt_tokens"][0] == 1
    assert found["composition"]["reward"] == ["reward.user_score"] and found["settings"]["loop.max_tokens"] == 1
    assert not found["proxy_is_gold"]
    json.dumps(found)
