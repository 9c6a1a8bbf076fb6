"""``truegain guard`` over the logs of three hosts: verdict, first alarm, both best checkpoints, exit codes."""

from __future__ import annotations

import json
import math
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from truegain.cli.__main__ import main
from truegain.core.errors import DataError, SettingError
from truegain.hosts.follow import judge_log
from truegain.hosts.logs import read_log

RISE_AND_FALL = [0.3, 0.45, 0.6, 0.62, 0.5, 0.2, 0.1]
HEALTHY = [0.3, 0.45, 0.5, 0.62, 0.6, 0.63, 0.65]


def verl_log(folder: Path, golds: list[float], *, problems: int = 200) -> Path:
    """As verl's file logger writes it: training metrics at every step, validation every five."""
    lines: list[dict[str, Any]] = []
    for step in range(5 * len(golds) - 4):
        data: dict[str, Any] = {"critic/score/mean": step / 40, "actor/lr": 1e-6}
        if step % 5 == 0:
            data["val-core/sort/acc/mean@1"] = golds[step // 5]
        lines.append({"step": step, "data": data})
    file = folder / "project" / "run.jsonl"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    for step in (10, 15, 30):
        (folder / "checkpoints" / "project" / "run" / f"global_step_{step}").mkdir(parents=True, exist_ok=True)
    return file


def own_log(folder: Path, golds: list[float], *, problems: int = 100, scores: bool = True) -> Path:
    """As our loop writes it: looks in the log, and every problem's scores beside it."""
    rng, lines, rows = np.random.default_rng(0), list[dict[str, Any]](), list[dict[str, Any]]()
    for n, chance in enumerate(golds):
        right = rng.random(problems) < chance
        lines.append({"kind": "eval", "step": 20 * n, "gold": float(right.mean()), "proxy": n / 10})
        rows += [
            {"step": 20 * n, "problem": f"p{i}", "gold": float(one), "proxy": n / 10} for i, one in enumerate(right)
        ]
    (folder / "evals").mkdir(parents=True)
    (folder / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    if scores:
        (folder / "evals" / "looks.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "settings.json").write_text(json.dumps({"settings": {"loop": {"eval_problems": problems}}}))
    return folder


def trl_log(folder: Path, golds: list[float]) -> Path:
    history = [{"step": n, "reward": n / 10, "eval_acc": gold} for n, gold in enumerate(golds)]
    (folder / "checkpoint-6").mkdir(parents=True)
    (folder / "checkpoint-6" / "trainer_state.json").write_text(
        json.dumps({"global_step": 6, "log_history": history, "best_global_step": None})
    )
    return folder


def printed(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[int, str, str]:
    code = main(["guard", *argv])
    out, err = capsys.readouterr()
    return code, out, err


def test_of_a_log_of_verls_means_are_tested_and_both_best_checkpoints_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = verl_log(tmp_path, RISE_AND_FALL)
    code, out, _ = printed(capsys, str(file), "--gold", "val-core/sort/acc/mean@1", "--n", "200")
    assert code == 1
    assert out.startswith("ALARM at step 25: gold is 0.420 below step 15") and "while the proxy rose" in out
    assert "means alone" in out and "global_step_15" in out and "global_step_30" in out
    # Eighths of the way from 0.1 to 0.62: 0.3 is 2.7 of 7 blocks up, 0.45 4.7, 0.6 6.7, 0.5 5.4, 0.2 1.3.
    assert "▄▆██▆▂▁" in out and "!!" in out


def test_a_healthy_run_raises_no_alarm_and_exits_with_zero(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = verl_log(tmp_path, HEALTHY)
    code, out, _ = printed(capsys, str(file), "--gold", "val-core/sort/acc/mean@1", "--n", "200")
    assert code == 0 and out.startswith("no alarm: gold is not known to have fallen, at level 0.05")


def test_of_a_run_of_ours_the_scores_are_tested_and_nothing_has_to_be_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, _ = printed(capsys, str(own_log(tmp_path / "a", RISE_AND_FALL)), "--json")
    found = json.loads(out)
    assert (code, found["alarm"], found["scores"], found["problems"]) == (1, True, True, 100)
    assert found["first"]["kind"] == "divergence" and found["by_proxy"]["step"] == 120
    assert found["by_gold"]["step"] in (40, 60)
    # The same run, of which only the means are left: the number of problems is in its settings, the test is weaker.
    means = judge_log(read_log(own_log(tmp_path / "b", RISE_AND_FALL, scores=False)))
    assert (means.scores, means.problems) == (False, 100)
    assert means.first is not None and found["first"]["step"] <= means.first.step
    assert means.first.evidence < found["first"]["evidence"] or means.first.step > found["first"]["step"]


def test_a_trl_run_with_the_guards_own_file_is_tested_on_its_scores(tmp_path: Path) -> None:
    folder = trl_log(tmp_path, RISE_AND_FALL)
    log = read_log(folder)
    with pytest.raises(SettingError, match="--n"):
        judge_log(log, gold="eval_acc")
    means = judge_log(log, gold="eval_acc", problems=300)
    assert means.first is not None and not means.scores
    rng = np.random.default_rng(1)
    scores = [(rng.random(80) < gold).astype(float).tolist() for gold in RISE_AND_FALL]
    looks = [{"step": n, "proxy": None if n == 0 else n / 10} for n in range(len(scores))]
    (folder / "gold_gap_guard.json").write_text(json.dumps({"looks": looks, "scores": scores}))
    history = [{"step": n, "truegain/gold": sum(row) / 80} for n, row in enumerate(scores)]
    state = folder / "checkpoint-6" / "trainer_state.json"
    state.write_text(json.dumps({"global_step": 6, "log_history": history}))
    kept = judge_log(read_log(folder))
    assert (kept.scores, kept.problems) == (True, 80) and kept.first is not None


def test_the_proxy_of_a_look_is_the_mean_since_the_look_before(tmp_path: Path) -> None:
    found = judge_log(read_log(verl_log(tmp_path, HEALTHY)), gold="val-core/sort/acc/mean@1", problems=50)
    # Steps 1 to 5 have 1/40 to 5/40, mean 3/40; the first look has step 0's own.
    assert [look.proxy for look in found.looks[:2]] == pytest.approx([0.0, 3 / 40])
    assert found.proxy_key == "critic/score/mean"


def test_what_cannot_be_used_exits_with_two_and_says_why(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = str(verl_log(tmp_path / "verl", RISE_AND_FALL))
    gold = "val-core/sort/acc/mean@1"
    one = own_log(tmp_path / "one", [0.5])
    broken = own_log(tmp_path / "broken", HEALTHY)
    (broken / "log.jsonl").write_bytes(b"\x00\xff" * 100)
    for argv, text in (
        ([str(tmp_path / "nowhere")], "cannot be read"),
        ([file], f"it has {gold}"),
        ([file, "--gold", gold], "--n"),
        ([file, "--gold", "val-core/sort/acc/mean@2", "--n", "9"], "did you mean"),
        ([file, "--gold", "critic/score/mean", "--n", "9", "--bounds", "0", "0.5"], "leaves its bounds"),
        ([file, "--gold", gold, "--n", "9", "--bounds", "1", "1"], "must rise"),
        ([file, "--gold", gold, "--n", "9", "--level", "2"], "level"),
        ([str(one)], "a fall needs 2"),
        ([str(broken)], "no log that can be read"),
    ):
        code, _, err = printed(capsys, *argv)
        assert code == 2 and text in err, (argv, err)


def test_hostile_looks_beside_a_log_are_left_out(tmp_path: Path) -> None:
    folder = own_log(tmp_path, RISE_AND_FALL)
    clean = judge_log(read_log(folder))
    with (folder / "evals" / "looks.jsonl").open("a") as file:
        for line in ('{"step": 0, "problem": "p0", "gold": 7}', '{"step": "x", "problem": "p0"}', "[]", '{"gold": 1'):
            file.write(line + "\n")
    found = judge_log(read_log(folder))
    assert [look.evidence for look in found.looks] == [look.evidence for look in clean.looks]
    (folder / "evals" / "looks.jsonl").unlink()
    (folder / "evals" / "looks.jsonl").mkdir()
    with pytest.raises(DataError, match="no ordinary file"):
        judge_log(read_log(folder))


def test_a_live_run_is_followed_until_its_alarm(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = own_log(tmp_path / "run", RISE_AND_FALL)
    log, looks = folder / "log.jsonl", folder / "evals" / "looks.jsonl"
    whole, rows = log.read_text().splitlines(keepends=True), looks.read_text().splitlines(keepends=True)
    log.unlink()
    looks.write_text("")

    def run() -> None:
        for n, line in enumerate(whole):
            time.sleep(0.15)
            with looks.open("a") as file:
                file.writelines(rows[100 * n : 100 * (n + 1)])
            with log.open("a") as file:
                file.write(line)

    writer = threading.Thread(target=run)
    writer.start()
    code, out, _ = printed(capsys, str(folder), "--follow", "--every", "0.1", "--json")
    writer.join()
    lines = [json.loads(line) for line in out.splitlines()]
    assert code == 1
    assert [line["alarm"] for line in lines] == [False] * (len(lines) - 1) + [True]


def test_following_a_healthy_run_ends_when_its_time_is_up(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = own_log(tmp_path, HEALTHY)
    code, out, _ = printed(capsys, str(folder), "--follow", "--every", "0.1", "--max-seconds", "0.3")
    assert code == 0 and out.count("no alarm") == 1


def test_a_run_that_has_not_begun_is_waited_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = printed(capsys, str(tmp_path), "--follow", "--every", "0.1", "--max-seconds", "0.3")
    # No verdict was reached: that is neither "no alarm" nor an alarm.
    assert code == 2 and out == "" and err.count("waiting: ") == 1
    code, out, err = printed(capsys, str(tmp_path / "run"), "--follow", "--every", "0.1", "--max-seconds", "0.3")
    assert code == 2 and out == "" and err.count("waiting: ") == 1
    one = own_log(tmp_path / "one", [0.5])
    code, _, err = printed(capsys, str(one), "--follow", "--every", "0.1", "--max-seconds", "0.3")
    assert code == 2 and "waiting: " in err and "a fall needs 2" in err


def test_a_metric_that_has_not_been_logged_yet_is_waited_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = verl_log(tmp_path, HEALTHY)
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    # Only steps 1 to 4, none of which was validated.
    file.write_text("".join(json.dumps(line) + "\n" for line in lines[1:5]))
    argv = [str(file), "--gold", "val-core/sort/acc/mean@1", "--n", "200", "--follow", "--every", "0.1"]
    code, _, err = printed(capsys, *argv, "--max-seconds", "0.3")
    assert code == 2 and err.count("waiting: ") == 1
    # The first validation comes before the first training step, so before the proxy.
    file.write_text(json.dumps({"step": 0, "data": {"val-core/sort/acc/mean@1": 0.5}}) + "\n")
    code, _, err = printed(capsys, *argv, "--proxy", "critic/score/mean", "--max-seconds", "0.3")
    assert code == 2 and err.count("waiting: ") == 1


def test_what_no_waiting_mends_is_refused_at_once_when_a_log_is_followed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, gold = str(verl_log(tmp_path / "verl", HEALTHY)), "val-core/sort/acc/mean@1"
    damaged = tmp_path / "damaged.jsonl"
    damaged.write_bytes(b"\x00\xff\n" * 100)
    for argv, text in (
        ([file, "--gold", gold], "--n"),
        ([file, "--gold", gold, "--n", "9", "--level", "7"], "level"),
        ([file, "--gold", gold, "--n", "9", "--margin", "1"], "margin"),
        ([str(tmp_path), "--bounds", "1", "1"], "must rise"),
        ([file, "--gold", "val-core/sort/acc/mean@2", "--n", "9"], "did you mean"),
        ([file, "--gold", gold, "--proxy", "critic/scores", "--n", "9"], "holds no metric"),
        ([str(tmp_path / "no" / "such" / "run")], "is not there"),
        ([str(damaged)], "no log that can be read"),
    ):
        began = time.monotonic()
        code, out, err = printed(capsys, *argv, "--follow", "--every", "0.1", "--max-seconds", "30")
        assert (code, out) == (2, "") and text in err and "waiting: " not in err, (argv, err)
        assert time.monotonic() - began < 10


def test_a_log_that_is_read_while_it_is_written_is_read_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = trl_log(tmp_path, RISE_AND_FALL)
    state = folder / "checkpoint-6" / "trainer_state.json"
    whole = state.read_text()
    state.write_text(whole[: len(whole) // 2])

    def finish() -> None:
        time.sleep(0.3)
        state.write_text(whole)

    writer = threading.Thread(target=finish)
    writer.start()
    code, _, err = printed(capsys, str(folder), "--gold", "eval_acc", "--n", "300", "--follow", "--every", "0.6")
    writer.join()
    assert (code, err) == (1, "")


@pytest.mark.parametrize("error", [MemoryError("no room"), RuntimeError("a bug"), DataError("bad"), OSError("gone")])
def test_no_failure_exits_with_the_code_of_an_alarm(
    error: Exception, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr("truegain.hosts.follow.judge_log", fail)
    folder = str(own_log(tmp_path, RISE_AND_FALL))
    for debug in ("0", "1"):
        monkeypatch.setenv("TRUEGAIN_DEBUG", debug)
        for more in ([], ["--json"], ["--follow", "--every", "0.1", "--max-seconds", "0.3"]):
            code, out, err = printed(capsys, folder, *more)
            assert (code, out) == (2, "") and str(error) in err


def test_more_scores_than_can_be_held_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = own_log(tmp_path, HEALTHY)
    rows = [{"step": 20 * (n % 7), "problem": f"p{n}", "gold": 0.5} for n in range(400_000)]
    (folder / "evals" / "looks.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    code, _, err = printed(capsys, str(folder))
    assert code == 2 and "7 looks at 400000 problems are more than 2,000,000 scores" in err
    assert printed(capsys, str(folder), "--gold", "gold", "--n", "100")[0] == 0


def test_a_log_without_a_proxy_has_no_best_by_proxy(tmp_path: Path) -> None:
    folder = trl_log(tmp_path, HEALTHY)
    state = folder / "checkpoint-6" / "trainer_state.json"
    kept = json.loads(state.read_text())
    for line in kept["log_history"]:
        del line["reward"]
    state.write_text(json.dumps(kept))
    found = judge_log(read_log(folder), gold="eval_acc", problems=100)
    assert found.by_proxy is None and found.proxy_key == "" and math.isnan(found.looks[0].proxy)
