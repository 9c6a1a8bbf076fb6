from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from truegain.core.errors import DataError, RunError, WiringError
from truegain.train import folder as folder_module
from truegain.train.folder import RunFolder, read_lines, read_settings

HOLDER = """
import os, sys, time
from truegain.train.folder import RunFolder
with RunFolder(sys.argv[1]) as run:
    run.log({"step": 1})
    child = os.fork() if sys.argv[2] == "fork" else 1
    if child:
        print(child, flush=True)
    time.sleep(60)
"""


def steps(path: Path) -> list[int]:
    return [line["step"] for line in read_lines(path)]


def test_a_second_run_in_the_folder_is_refused_and_the_first_goes_on(tmp_path):
    with RunFolder(tmp_path / "run") as first:
        with pytest.raises(RunError, match=f"run is in use by process {os.getpid()}: wait"):
            RunFolder(tmp_path / "run").__enter__()
        first.log({"step": 1})
    with RunFolder(tmp_path / "run") as second:
        assert second.read_log() == [{"step": 1}]


@pytest.mark.parametrize("how", ["alone", "fork"])
def test_the_lock_of_another_process_ends_with_its_kill(tmp_path, how):
    path = tmp_path / "run"
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, path, how], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    child = int(holder.stdout.readline())
    try:
        with pytest.raises(RunError, match=f"in use by process {holder.pid}"):
            RunFolder(path).__enter__()
        holder.send_signal(signal.SIGKILL)
        holder.wait()
        # A worker that the killed run had forked may still live; it must not hold the folder, once it was scheduled.
        ends = time.monotonic() + 10
        while True:
            try:
                with RunFolder(path) as run:
                    assert run.read_log() == [{"step": 1}]
                break
            except RunError:
                assert time.monotonic() < ends, "the fork holds the lock of the killed run"
                time.sleep(0.05)
    finally:
        holder.kill()
        holder.stdout.close()
        if how == "fork":
            os.kill(child, signal.SIGKILL)


def test_bad_paths_end_in_one_line_that_names_them(tmp_path):
    (tmp_path / "file").write_text("x")
    for path, told in [
        (tmp_path / "file", "file is a file, not a folder"),
        (tmp_path / "missing" / "run", "missing, the place for the run run, is no folder"),
        (tmp_path / "file" / "run", "file, the place for the run run, is no folder"),
        (tmp_path / ("x" * 300), "File name too long"),
    ]:
        with pytest.raises(DataError, match=told) as caught:
            RunFolder(path).__enter__()
        assert "\n" not in str(caught.value)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file"]


def test_a_folder_that_cannot_be_written_is_refused(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(DataError, match=r"run folder .* cannot be used \(Permission denied\): mend its rights"):
        RunFolder(tmp_path).__enter__()


def test_settings_are_written_once_and_held_on_resume(tmp_path):
    run = RunFolder(tmp_path)
    old = {"lr": 1e-4, "steps": 50, "task": {"name": "sort", "size": (3, 8)}, "model": Path("models/tiny")}
    assert run.settings(old) == []
    assert read_settings(tmp_path)["task"] == {"name": "sort", "size": [3, 8]}
    assert run.settings(old) == []
    assert run.settings({**old, "steps": 80}) == ["steps: 50 -> 80"]
    assert read_settings(tmp_path)["steps"] == 80
    with pytest.raises(DataError) as caught:
        run.settings({**old, "lr": 3e-4, "task": {"name": "add", "size": (3, 8)}, "seed": 1})
    text = str(caught.value)
    for told in ("lr: 0.0001 -> 0.0003", "seed: absent -> 1", 'task.name: "sort" -> "add"'):
        assert told in text
    assert "task.size" not in text and "steps" not in text
    assert read_settings(tmp_path)["lr"] == 1e-4
    assert run.settings({**old, "task": {"name": "add"}, "steps": 80}, free={"task"}) == [
        'task.name: "sort" -> "add"',
        "task.size: [3, 8] -> absent",
    ]


def test_damaged_settings_are_said(tmp_path):
    with pytest.raises(DataError, match="not a run folder"):
        read_settings(tmp_path)
    for text in ("{", "[1]", "\xff"):
        (tmp_path / "settings.json").write_bytes(text.encode("latin-1"))
        with pytest.raises(DataError, match=r"settings\.json"):
            RunFolder(tmp_path).settings({"lr": 1})


def test_every_line_is_strict_json(tmp_path):
    import torch

    run = RunFolder(tmp_path)
    nan, inf = float("nan"), float("inf")
    text = "line\nbreak \u2028 \x00 </script> \ud83d"
    run.log({"step": 1, "loss": nan, "kl": [inf, -inf], "text": text, "norm": torch.tensor(0.5), 7: None})

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    raw = (tmp_path / "log.jsonl").read_text()
    assert raw.count("\n") == 1
    assert json.loads(raw, parse_constant=refuse) == {
        "step": 1,
        "loss": "NaN",
        "kl": ["Infinity", "-Infinity"],
        "text": text,
        "norm": 0.5,
        "7": None,
    }


def test_lines_that_could_not_be_rewound_or_written_are_refused(tmp_path):
    run = RunFolder(tmp_path)
    for line, told in [({"loss": 1.0}, "integer 'step'"), ({"step": True}, "'step'"), ({"step": 1, "f": {2}}, "set")]:
        with pytest.raises(WiringError, match=told):
            run.log(line)
    for name in ("../other.jsonl", "/x.jsonl", "a/../../x.jsonl", "notes.txt"):
        with pytest.raises(WiringError, match="relative path"):
            run.records(name)
    assert list(tmp_path.iterdir()) == []


def test_rewind_drops_later_lines_everywhere_and_twice_is_the_same(tmp_path):
    run = RunFolder(tmp_path)
    evals = run.records("evals/records.jsonl")
    for step in range(1, 6):
        run.log({"step": step})
        evals.append({"step": step, "i": 0}, {"step": step, "i": 1})
        run.records(f"rollouts/step-{step:06d}.jsonl").append({"text": "a rollout"})
    checkpoints = tmp_path / "checkpoints" / "step-000009"
    checkpoints.mkdir(parents=True)
    (checkpoints / "step-000009.jsonl").write_text("belongs to the checkpoint")
    for _ in range(2):
        run.rewind(3)
        assert [line["step"] for line in run.read_log()] == [1, 2, 3]
        assert steps(tmp_path / "evals" / "records.jsonl") == [1, 1, 2, 2, 3, 3]
        assert sorted(p.name for p in (tmp_path / "rollouts").iterdir()) == [f"step-00000{i}.jsonl" for i in (1, 2, 3)]
    assert (checkpoints / "step-000009.jsonl").exists()
    run.log({"step": 4, "again": True})
    assert run.read_log()[-1] == {"step": 4, "again": True}
    run.sync()
    assert not list(tmp_path.rglob("*.tmp"))


@pytest.mark.parametrize("tail", ['{"step": 3, "loss": 0.', '{"st', "\x00" * 40, "{\n"])
def test_a_torn_last_line_is_dropped(tmp_path, tail):
    log = tmp_path / "log.jsonl"
    whole = '{"step": 1}\n{"step": 2}\n'
    log.write_text(whole + tail)
    assert RunFolder(tmp_path).read_log() == [{"step": 1}, {"step": 2}]
    assert log.read_text() == whole + tail, "reading changes nothing"
    RunFolder(tmp_path).rewind(9)
    assert log.read_text() == whole


def test_appending_after_a_torn_line_does_not_glue_to_it(tmp_path):
    (tmp_path / "log.jsonl").write_text('{"step": 1}\n{"ste')
    RunFolder(tmp_path).log({"step": 2})
    assert steps(tmp_path / "log.jsonl") == [1, 2]
    (tmp_path / "log.jsonl").write_text('{"step": 1}\n{"step": 2}')
    RunFolder(tmp_path).log({"step": 3})
    assert steps(tmp_path / "log.jsonl") == [1, 2, 3], "a whole line that only lacks its newline is kept"


def test_a_bad_line_in_the_middle_is_named_and_nothing_is_deleted(tmp_path):
    text = '{"step": 1}\nnot json\n{"step": 3}\n'
    (tmp_path / "log.jsonl").write_text(text)
    for call in (RunFolder(tmp_path).read_log, lambda: RunFolder(tmp_path).rewind(1)):
        with pytest.raises(DataError, match=r"log.jsonl line 2 is not a JSON object"):
            call()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["log.jsonl"]
    assert (tmp_path / "log.jsonl").read_text() == text


def test_a_full_disk_takes_back_the_half_line(tmp_path, monkeypatch):
    run = RunFolder(tmp_path)
    run.log({"step": 1})
    real, calls = os.write, []

    def write(file: int, data) -> int:
        calls.append(len(data))
        if len(calls) == 1:
            return real(file, bytes(data)[:5])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "write", write)
    with pytest.raises(
        RunError, match=r"cannot append to .*log.jsonl: the disk is full \(about 12 B needed, .* free\)"
    ):
        run.log({"step": 2})
    monkeypatch.undo()
    assert calls == [12, 7]
    assert (tmp_path / "log.jsonl").read_text() == '{"step": 1}\n'


def test_a_failed_rewrite_keeps_the_old_file(tmp_path, monkeypatch):
    run = RunFolder(tmp_path)
    run.settings({"steps": 1})
    run.log({"step": 1})
    run.log({"step": 2})

    def full(_: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(folder_module, "fsync", full)
    with pytest.raises(RunError, match="disk is full"):
        run.rewind(1)
    with pytest.raises(RunError, match="disk is full"):
        run.settings({"steps": 2})
    assert steps(tmp_path / "log.jsonl") == [1, 2] and read_settings(tmp_path) == {"steps": 1}
    assert sorted(p.name for p in tmp_path.iterdir()) == ["log.jsonl", "settings.json"]
