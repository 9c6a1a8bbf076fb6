"""One reader for the logs of three hosts, whatever state they are in."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

import pytest

from truegain.core.errors import DataError
from truegain.hosts import logs
from truegain.hosts.logs import read_log


def write_lines(path: Path, *lines: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    return path


def own_run(folder: Path) -> Path:
    lines = [
        {"kind": "eval", "step": 0, "gold": 0.25, "proxy": 0.1},
        {"kind": "step", "step": 1, "loss": "NaN", "reward": 0.5},
        {"kind": "eval", "step": 20, "gold": None, "proxy": 0.4},
        {"kind": "note", "step": 20, "text": "a note"},
    ]
    write_lines(folder / "log.jsonl", *lines)
    (folder / "settings.json").write_text('{"recipe": "grpo", "seed": 0}')
    (folder / "checkpoints" / "step-000020").mkdir(parents=True)
    (folder / "checkpoints" / "damaged-step-000040").mkdir()
    return folder


def trl_state(step: int, *history: Any) -> dict[str, Any]:
    return {"global_step": step, "max_steps": 40, "best_global_step": None, "log_history": list(history)}


def trl_run(folder: Path) -> Path:
    for step in (10, 9):
        place = folder / f"checkpoint-{step}"
        place.mkdir(parents=True)
        history = [{"step": n, "reward": n / 10, "kl": math.nan, "epoch": 0.1} for n in range(1, step + 1)]
        (place / "trainer_state.json").write_text(json.dumps(trl_state(step, *history)))
    return folder


def verl_run(folder: Path) -> Path:
    rows = [{"step": n, "data": {"critic/score/mean": n / 4, "val-core/sort/acc/mean@1": None}} for n in range(3)]
    write_lines(folder / "project" / "first.jsonl", *rows)
    (folder / "checkpoints" / "project" / "first" / "global_step_2").mkdir(parents=True)
    return folder / "project" / "first.jsonl"


def test_our_own_run_is_read_with_its_settings_and_whole_checkpoints(tmp_path: Path) -> None:
    log = read_log(own_run(tmp_path))
    assert (log.host, log.settings["recipe"], log.skipped, log.torn) == ("truegain", "grpo", 0, False)
    assert log.series("gold") == {0: 0.25}
    assert log.series("proxy") == {0: 0.1, 20: 0.4}
    assert [one.step for one in log.checkpoints] == [20]
    assert math.isnan(log.lines[1]["loss"])
    assert log.keys() == {"gold": 1, "proxy": 2, "reward": 1}
    assert log.checkpoint(20) is not None and log.checkpoint(0) is None


def test_the_newest_state_of_a_trl_run_is_read(tmp_path: Path) -> None:
    log = read_log(trl_run(tmp_path))
    assert (log.host, log.path.parent.name, len(log.lines)) == ("trl", "checkpoint-10", 10)
    assert log.series("reward")[10] == 1.0
    assert log.series("kl") == {}
    assert log.settings["max_steps"] == 40 and "log_history" not in log.settings
    assert [one.step for one in log.checkpoints] == [9, 10]
    again = read_log(tmp_path / "checkpoint-9" / "trainer_state.json")
    assert [one.step for one in again.checkpoints] == [9, 10]


def test_verls_lines_are_unwrapped_and_its_usual_checkpoints_found(tmp_path: Path) -> None:
    file = verl_run(tmp_path)
    for place in (file, file.parent):
        log = read_log(place)
        assert (log.host, log.path) == ("verl", file)
        assert log.series("critic/score/mean") == {0: 0.0, 1: 0.25, 2: 0.5}
        assert log.lines[0] == {"step": 0, "critic/score/mean": 0.0, "val-core/sort/acc/mean@1": None}
        assert [one.step for one in log.checkpoints] == [2]


def test_a_half_written_last_line_is_left_out_and_a_damaged_one_counted(tmp_path: Path) -> None:
    file = own_run(tmp_path) / "log.jsonl"
    whole = file.read_bytes()
    file.write_bytes(whole + b'{"kind": "eval", "step": 40, "gold": 0.')
    log = read_log(tmp_path)
    assert (len(log.lines), log.skipped, log.torn) == (4, 0, True)
    file.write_bytes(b"[1, 2]\n\xff\xfe\n\n" + whole + b'{"kind": "eval", "gold": 1}\n')
    log = read_log(tmp_path)
    assert (len(log.lines), log.skipped, log.torn) == (4, 3, False)


def test_lines_written_again_after_a_resume_replace_the_earlier_ones(tmp_path: Path) -> None:
    write_lines(tmp_path / "log.jsonl", *({"kind": "eval", "step": s, "gold": g} for s, g in ((0, 0.1), (5, 0.2))))
    with (tmp_path / "log.jsonl").open("a") as file:
        file.write('{"kind": "eval", "step": 5, "gold": 0.3}\n')
    assert read_log(tmp_path).series("gold") == {0: 0.1, 5: 0.3}


HOSTILE = {
    "nested beyond what a parser can follow": b"[" * 200_000 + b"\n",
    "a number of a million digits": b'{"kind": "eval", "step": ' + b"9" * 1_000_000 + b"}\n",
    "a step below zero": b'{"kind": "eval", "step": -1, "gold": 1}\n',
    "a step that is true": b'{"kind": "eval", "step": true, "gold": 1}\n',
    "a step beyond all bounds": b'{"kind": "eval", "step": 1000000000000000000000, "gold": 1}\n',
    "no text at all": bytes(range(128, 256)) * 100 + b"\n",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_line_is_counted_and_the_others_read(name: str, tmp_path: Path) -> None:
    file = own_run(tmp_path) / "log.jsonl"
    file.write_bytes(HOSTILE[name] + file.read_bytes())
    log = read_log(tmp_path)
    assert (len(log.lines), log.skipped) == (4, 1)


def test_a_line_that_is_too_long_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "MAX_LINE", 100)
    file = own_run(tmp_path) / "log.jsonl"
    file.write_bytes(b'{"kind": "eval", "step": 3, "text": "' + b"x" * 1000 + b'"}\n' + file.read_bytes())
    log = read_log(tmp_path)
    assert (len(log.lines), log.skipped) == (4, 1)


def test_a_value_that_is_no_number_is_in_no_series(tmp_path: Path) -> None:
    rows = [{"kind": "eval", "step": n, "gold": value} for n, value in enumerate([[1], {"a": 1}, "x", True, 1e999, 2])]
    write_lines(tmp_path / "log.jsonl", *rows)
    assert read_log(tmp_path).series("gold") == {5: 2.0}


def test_what_cannot_be_read_is_refused_in_one_line_that_says_what_was_looked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "torn").mkdir()
    (tmp_path / "torn" / "trainer_state.json").write_text('{"global_step": 3, "log_history": [{"step"')
    write_lines(tmp_path / "strange.jsonl", {"epoch": 1, "loss": 2})
    os.mkfifo(tmp_path / "pipe.jsonl")
    seeds = tmp_path / "seeds"
    own_run(seeds / "seed-0")
    own_run(seeds / "seed-1")
    two = tmp_path / "two"
    for name in ("a", "b"):
        write_lines(two / f"{name}.jsonl", {"step": 1, "data": {}})
    wanted = {
        "missing": "cannot be read (No such file",
        "empty": "no log.jsonl (truegain)",
        "torn": "half written",
        "strange.jsonl": "neither ours",
        "pipe.jsonl": "no ordinary file",
        "seeds": "seed-0",
        "two": "2 logs (a.jsonl, b.jsonl)",
    }
    for name, text in wanted.items():
        with pytest.raises(DataError) as caught:
            read_log(tmp_path / name)
        assert text in str(caught.value) and "\n" not in str(caught.value)
    monkeypatch.setattr(logs, "MAX_BYTES", 10)
    with pytest.raises(DataError, match="has more than"):
        read_log(verl_run(tmp_path))
