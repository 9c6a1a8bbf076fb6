"""Reading a run folder that was killed, resumed, damaged or written by something hostile."""

from __future__ import annotations

import json

import pytest
import report_runs as make

from truegain.core.errors import DataError
from truegain.report.build import build
from truegain.report.load import load_run, seed_folders


def test_lines_written_again_after_a_resume_are_not_doubled(tmp_path):
    run = make.write_run(tmp_path / "run", problems=20)
    once = build(run)
    for name in ("log.jsonl", "evals/records.jsonl"):
        file = run / name
        lines = file.read_text().splitlines(keepends=True)
        file.write_text("".join(lines + lines[len(lines) // 2 :]))
    assert build(run) == once


def test_of_a_line_written_twice_the_later_counts(tmp_path):
    make.write_lines(tmp_path / "log.jsonl", [{"kind": "step", "step": 1, "reward": r} for r in (0.1, 0.9)])
    assert [s["reward"] for s in load_run(tmp_path).steps] == [0.9]


def test_a_line_cut_by_a_kill_is_skipped_and_counted(tmp_path):
    run = make.write_run(tmp_path / "run", problems=20)
    whole = build(run)
    with (run / "evals" / "records.jsonl").open("a") as file:
        file.write('{"arm": "base", "split": "te')
    data = build(run)
    assert data["gain"] == whole["gain"]
    assert "run: 1 unreadable line was skipped in records.jsonl." in data["remarks"]


@pytest.mark.parametrize(
    "line",
    [
        b"\xff\xfe\x00not utf-8",
        b"[" * 100_000,
        b'{"arm": 3, "split": "test", "temperature": 1, "problem": "a", "gold": 1}',
        b'{"arm": "base", "split": "test", "temperature": "hot", "problem": "a", "gold": 1}',
        b'{"arm": "base", "split": "test", "temperature": NaN, "problem": "a", "gold": 1}',
        b'{"arm": "base", "split": "test", "temperature": 1, "problem": "a", "gold": Infinity}',
        b'{"arm": "base", "split": "test", "temperature": 1, "problem": "a", "gold": 17}',
        b'{"arm": "base", "split": "test", "temperature": 1, "problem": "a", "gold": "1"}',
        b'{"arm": "base", "split": "test", "temperature": ' + b"9" * 5000 + b', "problem": "a", "gold": 1}',
        b"17",
        b"null",
    ],
)
def test_a_record_that_makes_no_sense_is_counted_and_touches_no_number(tmp_path, line):
    run = make.write_run(tmp_path / "run", problems=20)
    whole = build(run)
    with (run / "evals" / "records.jsonl").open("ab") as file:
        file.write(line + b"\n")
    data = build(run)
    assert data["gain"] == whole["gain"] and data["arms"] == whole["arms"]
    assert load_run(run).skipped == {"records.jsonl": 1}


def test_log_values_that_are_no_numbers_become_gaps(tmp_path):
    run = make.write_run(tmp_path / "run", problems=20)
    make.write_lines(run / "log.jsonl", [
        {"kind": "step", "step": 1, "reward": "NaN", "ledger": [1], "seconds": None},
        {"kind": "step", "step": 2, "reward": float("nan"), "ledger": {"sampled": "x", "trained": 10}},
        {"kind": "eval", "step": 2, "gold": None, "proxy": {}}, {"kind": "step"}, {"kind": ["x"], "step": 3},
    ])  # fmt: skip
    data = build(run)
    assert [row["reward"] for row in data["curves"]["steps"][0]] == [None, None]
    assert data["ledger"]["total"] == {"trained": 10.0, "steps": 2.0}


@pytest.mark.parametrize("text", ["{", "[1]", '{"a": ' * 5000, "\x00"])
def test_damaged_settings_are_refused_by_name(tmp_path, text):
    (tmp_path / "settings.json").write_text(text)
    with pytest.raises(DataError, match=r"settings\.json"):
        build(tmp_path)


def test_missing_settings_and_log_still_give_a_verdict(tmp_path):
    make.write_lines(tmp_path / "evals" / "records.jsonl", make.records(make.better, problems=100))
    data = build(tmp_path)
    assert data["verdict"] == "real gain"
    assert data["run"]["recipe"] == "unknown" and data["run"]["command"] == "not recorded"


def test_seed_folders_come_in_the_order_of_their_numbers(tmp_path):
    for name in ("seed-10", "seed-2", "seed-x", "other"):
        (tmp_path / name).mkdir()
    assert [p.name for p in seed_folders(tmp_path)] == ["seed-2", "seed-10"]


def test_the_ledger_is_the_last_line_of_each_run_and_adds_over_runs(tmp_path):
    for s in range(2):
        make.write_run(tmp_path / f"seed-{s}", seed=s, problems=20)
    last = json.loads([x for x in (tmp_path / "seed-0" / "log.jsonl").read_text().splitlines() if '"step"' in x][119])
    data = build(tmp_path)
    assert data["ledger"]["runs"][0]["trained"] == last["ledger"]["trained"] == 2300 * 120
    assert data["ledger"]["total"]["trained"] == 2 * 2300 * 120
