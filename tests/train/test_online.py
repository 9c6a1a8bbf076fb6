"""The online loop: it learns, repeats itself, resumes to the same numbers, and stops before it does harm."""

from __future__ import annotations

import errno
import json
import math
import os
import signal
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from train_runs import (
    BANDIT,
    Function,
    begin,
    equal,
    final_weights,
    form_of,
    llama,
    logged,
    rollout,
    run,
    untimed,
)

from truegain.core.errors import RunError, WiringError
from truegain.core.forms import Role
from truegain.core.types import Abstain
from truegain.methods import reward
from truegain.policy.policy import Policy
from truegain.recipes.controls import blind, on_user_score
from truegain.recipes.grpo import grpo
from truegain.tasks import make
from truegain.train import checkpoint, online
from truegain.train.folder import RunFolder, read_lines
from truegain.train.launch import StopSignal
from truegain.train.models import load_models
from truegain.train.online import Setup, problems
from truegain.train.setup import State

ALTERNATE = Function(lambda rows: [float(r.sample % 2) for r in rows])


def steps_of(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [line for line in lines if line["kind"] == "step"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of 12 steps that nothing interrupted."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    run(folder)
    return folder


# Learning, and doing it again


def test_grpo_lifts_the_reward_far_above_a_run_under_a_random_reward(tmp_path: Path) -> None:
    form = form_of(steps=60, prompts=8, samples=12, eval_every=0, save_every=0)

    def late(name: str, form: Any) -> float:
        # The checker's verdict on the last twenty steps, whatever the reward was.
        seen: list[float] = []
        judge = Function(lambda rows: [seen.append(float(r.facts["correct"])) or 0.0 for r in rows])
        run(tmp_path / name, form, functions=((judge, 1.0),))
        return sum(seen[-1920:]) / 1920

    learned, blindly = late("grpo", form), late("blind", blind(form, rate=0.1))
    # 10 % of the arms are right, so a policy that knows nothing stays near 0.1. Four seeds gave 0.25 to 0.28 against
    # 0.09 to 0.12; the standard error of either number is below 0.01.
    assert blindly < 0.15
    assert learned > blindly + 0.08


def test_the_same_seed_gives_the_same_numbers_and_another_seed_others(tmp_path: Path, whole: Path) -> None:
    _, same = run(tmp_path / "same")
    assert logged(tmp_path / "same") == logged(whole)
    assert final_weights(tmp_path / "same") == final_weights(whole)
    assert equal(same.weights(), load_file(newest(whole) / "model.safetensors"))
    run(tmp_path / "other", seed=1)
    rewards = [[line["reward"] for line in steps_of(logged(folder))] for folder in (whole, tmp_path / "other")]
    assert rewards[0] != rewards[1]


def test_the_size_of_micro_batches_does_not_change_the_log(tmp_path: Path) -> None:
    model = llama(tmp_path / "model")
    # Ragged completions of several tokens under a reward that differs within groups, with a penalty to the start.
    form = replace(grpo(beta=0.05), loop=form_of(steps=3, max_tokens=12, temperature=1.2, lr=1e-3, eval_every=2).loop)
    form = blind(form, rate=0.5)
    logs = []
    for micro in (16384, 70):
        loop = form.loop.model_copy(update={"micro_tokens": micro})
        lines, _ = run(tmp_path / str(micro), replace(form, loop=loop), model=model, task="sort,level=3")
        logs.append(untimed(lines))
    assert all("kl" in line and line["reward_std"] > 0 for line in steps_of(logs[0]))
    assert len({line["completions/mean_length"] for line in steps_of(logs[0])}) > 1
    assert len(logs[0]) == len(logs[1])
    for a, b in zip(*logs, strict=True):
        assert a.keys() == b.keys()
        assert a.pop("ledger", None) == b.pop("ledger", None)
        for name, value in a.items():
            assert b[name] == pytest.approx(value, abs=1e-5), (a["kind"], a["step"], name)


def test_problems_are_a_pure_function_of_seed_and_place_and_an_epoch_meets_each_once() -> None:
    task = make(BANDIT)
    size = task.size("dev")
    assert size is not None
    two = [p.id for p in problems(task, "dev", 0, 2 * size, seed=3)]
    assert sorted(two[:size]) == sorted(two[size:]) == sorted(task.problem("dev", i).id for i in range(size))
    assert two[:size] != two[size:], "every epoch has an order of its own"
    assert [p.id for p in problems(task, "dev", size - 3, 6, seed=3)] == two[size - 3 : size + 3]
    assert [p.id for p in problems(task, "dev", 0, size, seed=4)] != two[:size]
    endless = make("sort,level=5")
    assert problems(endless, "train", 7, 3, seed=0)[1] == problems(endless, "train", 8, 1, seed=0)[0]
    assert problems(endless, "train", 0, 4, seed=0) != problems(endless, "train", 0, 4, seed=1)


# Resuming


def newest(folder: Path) -> Path:
    return max((folder / "checkpoints").glob("step-*"))


def check_resumed(folder: Path, whole: Path) -> None:
    """The same lines, none doubled, and the same weights and moments, bit for bit."""
    lines = logged(folder)
    assert [(line["kind"], line["step"]) for line in lines] == [(a["kind"], a["step"]) for a in logged(whole)]
    assert lines == logged(whole)
    assert final_weights(folder) == final_weights(whole)


@pytest.mark.parametrize("lines", [1, 5, 6, 15])
def test_a_run_dropped_after_any_line_resumes_to_the_same_numbers(tmp_path: Path, whole: Path, lines: int) -> None:
    # Lines: the look at step 0, five steps, the look at step 5, five steps, the look at step 10, two steps.
    assert len(begin(tmp_path / "run", lines)) == lines
    again, _ = run(tmp_path / "run")
    check_resumed(tmp_path / "run", whole)
    notes = [line["text"] for line in again if line["kind"] == "note"]
    # A line is on the disk before the checkpoint of its step: dropped right after it, a step is done again.
    saved = {1: None, 5: None, 6: 4, 15: 8}[lines]
    assert notes == ([] if saved is None else [f"resumed after step {saved}"])


def test_an_exception_in_a_step_loses_no_more_than_the_steps_since_the_checkpoint(
    tmp_path: Path, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls = online.learn, []

    def once(*a: Any) -> Any:
        calls.append(a)
        if len(calls) == 7:
            raise OSError("a step that fails")
        return real(*a)

    monkeypatch.setattr(online, "learn", once)
    with pytest.raises(OSError):
        run(tmp_path / "run")
    assert newest(tmp_path / "run").name == "step-000004"
    assert steps_of(logged(tmp_path / "run"))[-1]["step"] == 6
    run(tmp_path / "run")
    check_resumed(tmp_path / "run", whole)
    assert len(calls) == 7 + 8, "steps 5 to 12 again, and none of the first four"


@pytest.mark.parametrize("kills", [3, pytest.param(20, marks=pytest.mark.slow)])
def test_a_run_killed_at_random_moments_resumes_to_the_same_numbers(tmp_path: Path, kills: int) -> None:
    steps = 8 * kills
    driver = Path(__file__).with_name("train_runs.py")
    done = subprocess.run(
        [sys.executable, str(driver), str(tmp_path / "run"), str(steps), str(kills)],
        capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    statuses = json.loads(done.stdout)
    assert len(statuses) == kills + 1 and statuses[-1] == 0, done.stderr
    assert statuses.count(signal.SIGKILL) >= kills - 1, "the kills came too late: the test shows little"
    run(tmp_path / "whole", form_of(steps=steps))
    check_resumed(tmp_path / "run", tmp_path / "whole")
    with RunFolder(tmp_path / "run"):
        pass  # and no killed sitting still holds the folder


def test_a_damaged_newest_checkpoint_is_said_and_the_one_before_it_is_used(tmp_path: Path, whole: Path) -> None:
    begin(tmp_path / "run", 12)
    victim = newest(tmp_path / "run") / "model.safetensors"
    assert victim.parent.name == "step-000008"
    data = bytearray(victim.read_bytes())
    data[len(data) // 2] ^= 1
    victim.write_bytes(data)
    again, _ = run(tmp_path / "run")
    assert [line["text"] for line in again[:2]] == [
        "step-000008 is damaged (model.safetensors: checksum differs); using step-000004",
        "resumed after step 4",
    ]
    check_resumed(tmp_path / "run", whole)


def test_a_finished_run_is_not_trained_again_and_more_steps_go_on_from_its_end(tmp_path: Path, whole: Path) -> None:
    run(tmp_path / "run", form_of(steps=6))
    before = logged(tmp_path / "run")
    again, _ = run(tmp_path / "run", form_of(steps=6))
    assert [line["kind"] for line in again] == ["note"] and logged(tmp_path / "run") == before
    run(tmp_path / "run")
    check_resumed(tmp_path / "run", whole)


def test_ctrl_c_ends_after_the_step_with_a_checkpoint_and_the_run_can_go_on(
    tmp_path: Path, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = online.one_step

    def interrupted(setup: Setup, models: Any, state: Any) -> Any:
        if state.step == 2:
            os.kill(os.getpid(), signal.SIGINT)
        return real(setup, models, state)

    monkeypatch.setattr(online, "one_step", interrupted)
    said: list[str] = []
    with StopSignal(say=said.append) as stop:
        lines, _ = run(tmp_path / "run", stop=stop.reason)
    assert said == ["stopping after this step; press again to stop now"]
    assert lines[-1] == {"kind": "note", "step": 3, "text": "stopped after step 3: interrupted"}
    assert newest(tmp_path / "run").name == "step-000003"
    monkeypatch.undo()
    run(tmp_path / "run")
    check_resumed(tmp_path / "run", whole)


@pytest.mark.slow
def test_ctrl_c_on_the_command_line_ends_the_process_with_130_and_the_same_command_goes_on(tmp_path: Path) -> None:
    def command(out: str) -> list[str]:
        flags = "--steps 300 --seed 0 --dev-problems 4 --test-problems 10 --samples 1 --set save_every=0 --json"
        return [
            str(Path(sys.executable).with_name("truegain")), "train", "grpo", "--task", BANDIT, "--model", "table",
            *flags.split(), "--out", str(tmp_path / out),
        ]  # fmt: skip

    going = subprocess.Popen(command("run"), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert going.stdout is not None
    for line in going.stdout:
        event = json.loads(line)
        if event["kind"] == "step" and event["step"] == 5:
            break
    going.send_signal(signal.SIGINT)
    _, err = going.communicate(timeout=120)
    assert going.returncode == 130
    assert "To go on:" in err
    assert 5 <= logged(tmp_path / "run")[-1]["step"] < 300
    for out in ("run", "whole"):
        subprocess.run(command(out), check=True, capture_output=True, timeout=300)
    check_resumed(tmp_path / "run", tmp_path / "whole")


# Numbers that are not finite


def test_a_reward_that_is_not_finite_stops_before_a_weight_is_touched_and_saves_its_rows(tmp_path: Path) -> None:
    value = 1e39
    form = on_user_score(form_of(eval_every=0, save_every=0))
    calls = []

    def judge(rows: Any) -> list[float | Abstain]:
        calls.append(rows)
        # The value is finite in Python, but infinite as the float32 of a column.
        return [value if len(calls) == 3 and i == 5 else float(i % 2) for i in range(len(rows))]

    policy = Policy.load("table")
    with (
        RunFolder(tmp_path / "run") as held,
        pytest.raises(RunError, match="the reward of 1 rows is not finite; no weight was touched") as caught,
    ):
        setup = Setup(form, policy, make(BANDIT), held, functions=((Function(judge), 1.0),))  # pyright: ignore
        list(online.train(setup, lambda: None))
    place = tmp_path / "run" / "failed" / "step-000003.jsonl"
    assert str(caught.value).startswith("step 3: ") and str(place) in str(caught.value)
    assert "\n" not in str(caught.value)
    (row,) = read_lines(place)
    guilty = calls[2][5]
    assert (row["problem"], row["text"], row["facts"]["score"]) == (guilty.problem.id, guilty.text, value)
    good = (((ALTERNATE), 1.0),)
    _, two = run(tmp_path / "two", replace(form, loop=form.loop.model_copy(update={"steps": 2})), functions=good)
    assert equal(policy.weights(), two.weights())
    # Once it is mended the run goes on, and the failure's rows do not stay behind for a step that succeeded.
    run(tmp_path / "run", form, functions=good)
    run(tmp_path / "other", form, functions=good)
    check_resumed(tmp_path / "run", tmp_path / "other")
    assert not place.exists()


def test_a_reward_component_that_gives_nan_stops_the_run(tmp_path: Path) -> None:
    form = replace(form_of(), reward=partial(reward.outcome, wrong=math.nan))
    with pytest.raises(RunError, match=r"step 1: the reward of 16 rows is not finite.*failed/step-000001\.jsonl"):
        run(tmp_path / "run", form)
    assert len(read_lines(tmp_path / "run" / "failed" / "step-000001.jsonl")) == 16
    assert steps_of(logged(tmp_path / "run")) == []


def test_a_loss_that_is_nan_stops_before_a_weight_is_touched_and_saves_its_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, poisoned = online.shape, {}

    def poison(setup: Setup, models: Any, state: Any, rollouts: Any) -> Any:
        if state.step == 1:
            letter = rollouts[0].prompt_ids[-1]
            setup.policy.model.weight.data[letter, 7] = math.nan
            poisoned.update(setup.policy.weights())
            poisoned["rows"] = [r for r in rollouts if r.prompt_ids[-1] == letter]
        return real(setup, models, state, rollouts)

    monkeypatch.setattr(online, "shape", poison)
    policy = Policy.load("table")
    form = on_user_score(form_of(eval_every=0))
    with (
        RunFolder(tmp_path / "run") as held,
        pytest.raises(RunError, match=r"step 2: the loss of \d+ rows is not finite; no weight was touched") as caught,
    ):
        setup = Setup(form, policy, make(BANDIT), held, functions=((ALTERNATE, 1.0),))  # pyright: ignore
        list(online.train(setup, lambda: None))
    rows = poisoned.pop("rows")
    saved = read_lines(tmp_path / "run" / "failed" / "step-000002.jsonl")
    # The whole micro-batch is named; here that is the step.
    assert {(r.problem.id, r.text) for r in rows} <= {(line["problem"], line["text"]) for line in saved}
    assert f"of {len(saved)} rows" in str(caught.value) and "\n" not in str(caught.value)
    assert torch.equal(policy.weights()["weight"].nan_to_num(99.0), poisoned["weight"].nan_to_num(99.0))


# Abstentions


def test_rows_without_a_verdict_are_counted_and_left_out_of_the_batch(tmp_path: Path) -> None:
    def judge(rows: Any) -> list[float | Abstain]:
        # Of the four samples of a problem: 0, 1, none, 1.
        return [Abstain("no idea") if r.sample == 2 else float(r.sample % 2) for r in rows]

    form = on_user_score(form_of(steps=2, eval_every=1))
    lines, _ = run(tmp_path / "run", form, functions=((Function(judge), 1.0), (ALTERNATE, 3.0)))
    for line in steps_of(lines):
        assert line["truegain/abstained"] == 4
        assert line["truegain/trained_rows"] == 12
        # Per group the sums of the two functions are 0, 4 and 4; the abstaining row takes no part.
        assert line["reward"] == pytest.approx(8 / 3)
        assert line["reward_std"] == pytest.approx(math.sqrt(16 / 3))
    look = lines[0]
    assert (look["kind"], look["truegain/abstained"]) == ("eval", 0)


def test_the_gold_of_a_look_does_not_hang_on_the_reward_function(tmp_path: Path) -> None:
    form = on_user_score(form_of(steps=0))
    nothing = Function(lambda rows: [Abstain("down")] * len(rows))
    plain, _ = run(tmp_path / "plain", form_of(steps=0))
    lines, _ = run(tmp_path / "run", form, functions=((nothing, 1.0),))
    assert lines[0]["gold"] == plain[0]["gold"] and lines[0]["gold_low"] == plain[0]["gold_low"]
    assert lines[0]["truegain/abstained"] == 8 and "proxy" not in lines[0]


def test_when_every_row_abstains_the_run_stops_and_names_the_commonest_reason(tmp_path: Path) -> None:
    nothing = Function(lambda rows: [Abstain("odd" if i == 0 else "server down") for i in range(len(rows))])
    form = on_user_score(form_of())
    with pytest.raises(RunError) as caught:
        run(tmp_path / "run", form, functions=((nothing, 1.0),))
    place = tmp_path / "run" / "failed" / "step-000001.jsonl"
    assert str(caught.value) == (
        "step 1: every rollout's check abstained (15 of 16 times: server down), so there is nothing to train on; "
        f"mend the check; the rows are in {place}"
    )
    assert [line["facts"]["abstained"] for line in read_lines(place)][:2] == ["odd", "server down"]


# Folders and disks


def test_a_full_disk_while_saving_is_one_line_and_costs_only_the_steps_since_the_last_checkpoint(
    tmp_path: Path, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls = checkpoint.save_file, []

    def full(tensors: Any, path: Path) -> None:
        calls.append(path)
        if len(calls) == 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(tensors, path)

    monkeypatch.setattr(checkpoint, "save_file", full)
    with pytest.raises(RunError, match=r"step-000008: the disk is full .*earlier checkpoints are untouched") as caught:
        run(tmp_path / "run")
    assert "\n" not in str(caught.value)
    assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()] == ["step-000004"]
    monkeypatch.undo()
    run(tmp_path / "run")
    check_resumed(tmp_path / "run", whole)


# What is logged


def test_the_names_that_trl_logs_stand_in_every_step_line(tmp_path: Path) -> None:
    lines, _ = run(tmp_path / "run", on_user_score(form_of(steps=2)), functions=((ALTERNATE, 1.0),))
    names = {
        "loss", "grad_norm", "entropy", "reward", "reward_std", "frac_reward_zero_std", "rewards/user_score/mean",
        "clip_ratio/low_mean", "clip_ratio/high_mean", "clip_ratio/region_mean", "completions/mean_length",
        "completions/min_length", "completions/max_length", "completions/clipped_ratio",
    }  # fmt: skip
    for line in steps_of(lines):
        assert names <= line.keys()
        assert all(math.isfinite(line[name]) for name in names)


def test_a_step_in_which_every_group_agrees_is_logged_and_touches_nothing(tmp_path: Path) -> None:
    lines, policy = run(tmp_path / "run", form_of(steps=2, eval_every=0), task="bandit,level=100")
    for line in steps_of(lines):
        assert (line["frac_reward_zero_std"], line["truegain/trained_rows"]) == (1.0, 0)
        assert (line["loss"], line["grad_norm"], line["reward"]) == (0.0, 0.0, 1.0)
        assert line["ledger"]["trained"] == 0
    assert equal(policy.weights(), Policy.load("table").weights())


@pytest.mark.parametrize("scale", [1.0, 1000.1])
def test_reward_mean_deviation_and_the_share_of_groups_without_a_signal_are_exact(tmp_path: Path, scale: float) -> None:
    rewards = {"a": [1, 1, 1], "b": [1, 0], "c": [0, 0, 0, 0], "d": [1]}
    rows = [rollout(p, sample=i, correct=float(v)) for p, values in rewards.items() for i, v in enumerate(values)]
    policy = Policy.load("table")
    form = replace(form_of(), reward=partial(reward.outcome, right=scale))
    with RunFolder(tmp_path / "run") as held:
        setup = Setup(form, policy, make(BANDIT), held)
        made = online.shape(setup, load_models(form, policy, policy.reference()), State(), rows)
        batch, logs = made.batch, made.logs
    assert batch["group"].tolist() == [0, 0, 0, 1, 1, 2, 2, 2, 2, 3]
    means = {name: total / count for name, (total, count) in logs.items()}
    # 5 of 10 rows are right. Only group b spreads: its deviation with n - 1 is sqrt(0.5). a, c and d do not, though
    # in float32 the mean of three times 1000.1 is not 1000.1.
    assert means["reward"] == pytest.approx(0.5 * scale)
    assert means["reward_std"] == pytest.approx(math.sqrt(0.5) / 4 * scale)
    assert means["frac_reward_zero_std"] == 0.75


def test_the_ledger_of_a_table_run_equals_a_count_by_hand(tmp_path: Path) -> None:
    def judge(rows: Any) -> list[float | Abstain]:
        return [Abstain("no idea") if i == 0 else float(r.sample % 2) for i, r in enumerate(rows)]

    form = replace(on_user_score(grpo(beta=0.1)), loop=form_of(steps=3, eval_every=2).loop)
    run(tmp_path / "run", form, functions=((Function(judge), 1.0),))
    prompt = 3  # <bos> and two letters; one token is drawn
    ledgers = [line["ledger"] for line in steps_of(read_lines(tmp_path / "run" / "log.jsonl"))]
    for step, ledger in enumerate(ledgers, 1):
        # 4 prompts once each, 16 tokens. 15 rows are judged, scored by the reference, and trained on.
        sampled, scored, trained = 4 * prompt + 16, 15 * (prompt + 1), 15 * (prompt + 1)
        assert ledger == {
            "sampled": step * sampled, "probed": 0, "resampled": 0, "scored": step * scored, "trained": step * trained,
            # A row of 108 numbers is looked up per token: 2 * 108 operations forward, three times that to train.
            "flops": step * 2 * 108 * (sampled + scored + 3 * trained),
        }  # fmt: skip


def test_the_ledger_of_a_transformer_counts_weights_and_attended_positions(tmp_path: Path) -> None:
    form = on_user_score(form_of(steps=1, prompts=2, samples=2, eval_every=0))
    model = llama(tmp_path / "model")
    (line,) = steps_of(run(tmp_path / "run", form, model=model, functions=((ALTERNATE, 1.0),))[0])
    # Per block: q, k, v, o 4 * 16 * 16, the three of the MLP 3 * 16 * 24, two norms 2 * 16. The last norm 16 and the
    # head 108 * 16 multiply too, the input embedding does not.
    weights = 4 * 16 * 16 + 3 * 16 * 24 + 2 * 16 + 16 + 108 * 16

    def forward(tokens: int, attended: int) -> int:
        return 2 * weights * tokens + 4 * 1 * 16 * attended

    # Each of 2 prompts: 3 tokens that attend to 1 + 2 + 3. Each of 4 drawn tokens attends to 4. A row in all: 10.
    sampled = 2 * forward(3, 6) + 4 * forward(1, 4)
    assert line["ledger"]["flops"] == sampled + 4 * 3 * forward(4, 10)
    assert (line["ledger"]["sampled"], line["ledger"]["trained"]) == (10, 16)


# What the loop does not run


@pytest.mark.parametrize(
    ("role", "why"),
    [
        (Role(source="init", fills="value"), "needs head=True"),
        (Role(source="init", fills="ref_logp", lr=1e-3), "has no term"),
        (Role(source="init", fills="ref_logp", head=True), "needs no head"),
        (Role(source="init", fills="reward"), "a role can fill ref_logp, rm_logp"),
        (Role(source="init", fills="model_reward", head=True, lr=1e-3), "has no term"),
    ],
)
def test_roles_that_the_loop_does_not_run_are_refused_by_name(role: Role, why: str) -> None:
    with pytest.raises(WiringError, match=f"role 'other'.*{why}"):
        online.check(replace(form_of(), roles={"other": role}))


def test_a_term_of_a_frozen_role_is_refused_and_not_left_out() -> None:
    form = grpo(beta=0.1)
    online.check(form)
    with pytest.raises(WiringError, match="role 'reference' is trained by a term: give it lr"):
        online.check(replace(form, terms=(*form.terms, replace(form.terms[0], role="reference"))))
