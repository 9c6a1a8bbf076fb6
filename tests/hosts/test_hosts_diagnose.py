"""`truegain doctor RUN`: what a log gives away. Lines are those of real runs with the numbers in question changed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from truegain.core.errors import DataError
from truegain.hosts.diagnose import NAMES, Finding, diagnose
from truegain.hosts.logs import read_log

STEPS = 20
# A step of TRL 1.16, one of verl 0.9.1
TRL: dict[str, Any] = {
    "clip_ratio/region_mean": 0.0,
    "completions/clipped_ratio": 0.1,
    "completions/max_length": 12.0,
    "completions/mean_length": 9.0,
    "completions/mean_terminated_length": 8.7,
    "completions/min_length": 5.0,
    "entropy": 0.44,
    "frac_reward_zero_std": 0.25,
    "grad_norm": 1.8,
    "kl": 0.003,
    "learning_rate": 1e-06,
    "loss": 0.0115,
    "reward": 0.1,
    "reward_std": 0.2,
    "rewards/right/mean": 0.1,
    "rewards/right/std": 0.2,
    "sampling/sampling_logp_difference/mean": 0.004,
}
VERL: dict[str, Any] = {
    "actor/entropy": 0.4,
    "actor/grad_norm": 0.3,
    "actor/lr": 1e-6,
    "actor/pg_loss": 0.01,
    "actor/ppo_kl": 0.0001,
    "critic/score/mean": 0.4,
    "response_length/clip_ratio": 0.1,
    "response_length/max": 1024.0,
    "response_length/min": 90.0,
    "training/rollout_probs_diff_mean": 0.004,
}

Change = Callable[[int], dict[str, Any]]


def trl(folder: Path, change: Change, *, ends: dict[str, Any] | None = None, **state: Any) -> Path:
    lines = [
        {**TRL, "reward": 0.1 + 0.01 * n, "rewards/right/mean": 0.1 + 0.01 * n, "step": n + 1} for n in range(STEPS)
    ]
    lines = [{key: v for key, v in (line | change(n)).items() if v is not None} for n, line in enumerate(lines)]
    history = [*lines, *([{"step": STEPS, **ends}] if ends else [])]
    (folder / "trainer_state.json").write_text(json.dumps({"log_history": history, "global_step": STEPS, **state}))
    return folder


def verl(folder: Path, change: Change) -> Path:
    lines = [{"step": n + 1, "data": {**VERL, "critic/score/mean": 0.4 + 0.01 * n} | change(n)} for n in range(STEPS)]
    (folder / "run.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def found(folder: Path, name: str, **names: str) -> Finding:
    return next(one for one in diagnose(read_log(folder), **names) if one.name == name)


def nothing(_: int) -> dict[str, Any]:
    return {}


@pytest.mark.parametrize("write", [trl, verl])
def test_a_healthy_log_has_nothing_bad_and_nothing_to_note(write: Any, tmp_path: Path) -> None:
    states = {one.name: one.state for one in diagnose(read_log(write(tmp_path, nothing)))}
    assert set(states.values()) <= {"ok", "unseen"}, states
    seen = {name for name, state in states.items() if state == "ok"}
    assert {"numbers", "steps that train", "truncation metric", "engine against learner", "entropy"} <= seen


def test_the_worst_comes_first_and_every_bad_finding_has_cause_evidence_and_mend(tmp_path: Path) -> None:
    broken = trl(
        tmp_path, lambda n: {"frac_reward_zero_std": 1.0, "entropy": 0.5 if n < 6 else 0.001, "grad_norm": 0.0}
    )
    all_found = diagnose(read_log(broken))
    order = ["bad", "note", "ok", "unseen"]
    assert [order.index(one.state) for one in all_found] == sorted(order.index(one.state) for one in all_found)
    assert all(one.cause and one.evidence and one.mend for one in all_found if one.state in ("bad", "note"))
    assert {one.name for one in all_found if one.state == "bad"} == {"steps that train", "zero-variance groups"}
    assert next(one for one in all_found if one.name == "entropy").state == "note"


@pytest.mark.parametrize(("share", "state"), [(0.4, "ok"), (0.6, "note"), (1.0, "bad")])
def test_groups_without_variance_are_counted_over_the_end_of_the_log(share: float, state: str, tmp_path: Path) -> None:
    folder = trl(tmp_path, lambda n: {"frac_reward_zero_std": 0.0 if n < 12 else share})
    one = found(folder, "zero-variance groups")
    assert one.state == state and f"{share:.0%}" in one.evidence
    assert state == "ok" or "too easy" in one.cause


def test_a_reward_that_never_varies_is_named_as_the_cause(tmp_path: Path) -> None:
    folder = trl(tmp_path, lambda _: {"frac_reward_zero_std": 1.0, "reward": 0.0})
    assert "does not tell completions apart" in found(folder, "zero-variance groups").cause


def test_an_epoch_run_resumed_past_its_end_trained_nothing(tmp_path: Path) -> None:
    # As transformers 5.23 writes it when a finished run with num_train_epochs is resumed.
    ends = {"train_runtime": 0.0002, "train_loss": 0.0, "train_steps_per_second": 0.0}
    one = found(trl(tmp_path, nothing, ends=ends), "steps that train")
    assert one.state == "bad" and "resumed at or past its last step" in one.cause and "0.0002 s" in one.evidence


def test_a_run_that_ended_with_a_loss_did_train(tmp_path: Path) -> None:
    ends = {"train_runtime": 12.0, "train_loss": 0.03}
    assert found(trl(tmp_path, nothing, ends=ends), "steps that train").state == "ok"


def test_a_run_whose_loss_is_exactly_zero_throughout_was_not_resumed_for_nothing(tmp_path: Path) -> None:
    # On-policy, with rows of equal length, the loss is 0 while its gradient is not.
    ends = {"train_runtime": 500.0, "train_loss": 0.0}
    assert found(trl(tmp_path, lambda _: {"loss": 0.0}, ends=ends), "steps that train").state == "ok"


def test_a_learning_rate_of_zero_before_the_end_is_a_schedule_run_out(tmp_path: Path) -> None:
    folder = trl(tmp_path, lambda n: {"learning_rate": 1e-6 if n < 12 else 0.0})
    one = found(folder, "steps that train")
    assert one.state == "bad" and "schedule" in one.cause
    last = trl(tmp_path, lambda n: {"learning_rate": 0.0 if n in (0, STEPS - 1) else 1e-6})
    assert found(last, "steps that train").state == "ok"


def test_our_own_resume_without_a_step_after_it_trained_nothing(tmp_path: Path) -> None:
    step = {"kind": "step", "loss": 0.1, "grad_norm": 1.0}
    lines = [{**step, "step": n + 1} for n in range(6)]
    note = {"kind": "note", "step": 6, "text": "resumed after step 6"}
    log = tmp_path / "log.jsonl"
    log.write_text("".join(json.dumps(line) + "\n" for line in [*lines, note]))
    assert found(tmp_path, "steps that train").state == "bad"
    log.write_text("".join(json.dumps(line) + "\n" for line in [*lines, note, {**step, "step": 7}]))
    assert found(tmp_path, "steps that train").state == "ok"


def test_completions_of_many_lengths_cannot_all_have_been_cut(tmp_path: Path) -> None:
    folder = trl(tmp_path, lambda _: {"completions/clipped_ratio": 1.0})
    one = found(folder, "truncation metric")
    assert one.state == "bad" and "5 to 12 tokens" in one.evidence and "eos_token_id" in one.mend


def test_a_clip_ratio_that_counts_the_longest_row_of_each_batch_is_found_out(tmp_path: Path) -> None:
    one = found(verl(tmp_path, lambda n: {"response_length/max": 700.0 + n}), "truncation metric")
    assert one.state == "bad" and "700 to 719 tokens" in one.evidence


def test_with_tools_the_length_says_nothing_of_the_limit(tmp_path: Path) -> None:
    folder = trl(tmp_path, lambda n: {"completions/max_length": 12.0 + n, "tools/call_frequency": 0.5})
    assert found(folder, "truncation metric").state == "ok"


def test_a_run_most_of_whose_completions_are_cut_is_noted(tmp_path: Path) -> None:
    full = {"completions/clipped_ratio": 0.9}
    assert found(trl(tmp_path, lambda _: full), "truncation metric").state == "note"


@pytest.mark.parametrize(("gap", "state"), [(0.004, "ok"), (0.05, "note"), (0.4, "bad")])
def test_the_gap_between_engine_and_learner_is_judged_by_its_size(gap: float, state: str, tmp_path: Path) -> None:
    folder = trl(tmp_path, lambda _: {"sampling/sampling_logp_difference/mean": gap})
    assert found(folder, "engine against learner").state == state
    (tmp_path / "trainer_state.json").unlink()
    assert (
        found(verl(tmp_path, lambda _: {"training/rollout_probs_diff_mean": gap}), "engine against learner").state
        == state
    )


def test_a_gap_that_grows_points_at_stale_weights(tmp_path: Path) -> None:
    folder = trl(tmp_path, lambda n: {"sampling/sampling_logp_difference/mean": 0.002 * (n + 1) ** 1.5})
    assert "new weights" in found(folder, "engine against learner").cause


def test_a_reward_that_abstains_or_is_constant_is_named(tmp_path: Path) -> None:
    silent = trl(tmp_path, lambda _: {"rewards/style/mean": float("nan"), "rewards/style/std": float("nan")})
    assert "style gave no number at any of 20 steps" in found(silent, "parts that count").evidence
    constant = trl(tmp_path, lambda _: {"rewards/form/mean": 1.0, "rewards/form/std": 0.0})
    one = found(constant, "parts that count")
    assert one.state == "note" and one.evidence == "form is 1 at each of 20 steps"
    spread = trl(tmp_path, lambda _: {"rewards/form/mean": 0.5, "rewards/form/std": 0.1})
    assert found(spread, "parts that count").state == "ok"


def test_metrics_that_end_before_the_log_are_a_dropped_component(tmp_path: Path) -> None:
    folder = trl(tmp_path, lambda n: {"kl": 0.01 if n < 12 else None})
    one = found(folder, "parts that count")
    assert one.state == "bad" and one.evidence == "kl is not logged after step 12"


def test_the_best_checkpoint_by_the_optimised_reward_is_a_note_without_gold_and_bad_against_it(tmp_path: Path) -> None:
    name = "choice of the checkpoint"
    assert found(trl(tmp_path, nothing), name).state == "unseen"
    assert found(trl(tmp_path, nothing, best_global_step=20), name).state == "note"
    rises_and_falls = [0.2 + 0.03 * min(n, 10) - 0.04 * max(n - 10, 0) for n in range(STEPS)]

    def gold(n: int) -> dict[str, Any]:
        return {"truegain/gold": rises_and_falls[n]}

    one = found(trl(tmp_path, gold, best_global_step=20), name)
    assert one.state == "bad" and "step 11" in one.mend and "marked as the best" in one.evidence
    assert found(trl(tmp_path, gold, best_global_step=11), name).state == "ok"
    assert found(trl(tmp_path, gold), name).state == "bad"  # unmarked: the last reward is the highest


def test_gold_under_another_name_can_be_given(tmp_path: Path) -> None:
    folder = verl(tmp_path, lambda n: {"val-core/math/reward/mean@8": 0.5 - 0.01 * n})
    assert found(folder, "choice of the checkpoint").state == "unseen"
    assert found(folder, "choice of the checkpoint", gold="val-core/math/reward/mean@8").state == "bad"
    with pytest.raises(DataError, match=r"no metric 'val-core/math/reward/mean@4'.*mean@8"):
        found(folder, "choice of the checkpoint", gold="val-core/math/reward/mean@4")


def test_numbers_that_are_none_and_spikes_are_found(tmp_path: Path) -> None:
    nan = found(trl(tmp_path, lambda n: {"loss": float("nan")} if n == 6 else {}), "numbers")
    assert nan.state == "bad" and "first at 7" in nan.evidence
    spike = found(trl(tmp_path, lambda n: {"grad_norm": 400.0} if n == 6 else {}), "numbers")
    assert spike.state == "note" and "step 7" in spike.evidence


@pytest.mark.parametrize(
    ("host", "kl", "state"), [("trl", 0.2, "ok"), ("trl", 1.0, "note"), ("ours", 20.0, "ok"), ("ours", 60.0, "note")]
)
def test_the_distance_from_the_start_is_judged_in_the_units_of_the_host(
    host: str, kl: float, state: str, tmp_path: Path
) -> None:
    if host == "trl":
        trl(tmp_path, lambda _: {"kl": kl})
    else:
        looks = [{"kind": "eval", "step": n, "gold": 0.5, "proxy": 0.5, "kl": kl} for n in range(4)]
        steps = [{"kind": "step", "step": n + 1, "kl": 99.0, "grad_norm": 1.0} for n in range(4)]
        (tmp_path / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in [*looks, *steps]))
    assert found(tmp_path, "distance from the start").state == state


def test_every_check_says_what_it_could_not_see(tmp_path: Path) -> None:
    (tmp_path / "run.jsonl").write_text('{"step": 1, "data": {"perf/throughput": 3.0}}\n')
    all_found = diagnose(read_log(tmp_path))
    assert {one.state for one in all_found} == {"unseen"} and all(one.evidence for one in all_found)
    assert set(NAMES) == {"truegain", "trl", "verl"}


def test_the_command_prints_json_and_exits_by_what_it_found(tmp_path: Path) -> None:
    from truegain.cli.app import app

    run = CliRunner()
    good = run.invoke(app, ["doctor", str(trl(tmp_path, nothing)), "--json"])
    assert good.exit_code == 0 and json.loads(good.stdout)["ok"] is True
    bad = run.invoke(app, ["doctor", str(trl(tmp_path, lambda _: {"grad_norm": 0.0}))])
    assert bad.exit_code == 1 and "1 bad" in bad.stdout


def test_text_from_a_log_cannot_drive_the_terminal(tmp_path: Path) -> None:
    from truegain.cli.app import app

    key = "rewards/\x1b[31mred\x1b]8;;http://x\x07/mean"
    shown = CliRunner().invoke(app, ["doctor", str(trl(tmp_path, lambda _: {key: 1.0}))])
    assert "\x1b" not in shown.stdout and "\x07" not in shown.stdout and "red" in shown.stdout
