"""The trackers' real clients, each run for two steps and read back; one that is not installed is skipped."""

from __future__ import annotations

import importlib.util
import json
import os
import shlex
import sqlite3
import struct
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow
SMALL = shlex.split(
    "train grpo --task sort,level=2 --model table --steps 2 --dev-problems 4 --test-problems 10 --eval-samples 1"
    " --set prompts=2 --set samples=2 --set eval_problems=2 --out run --json"
)


def needs(name: str) -> pytest.MarkDecorator:
    spec = importlib.util.find_spec(name)
    return pytest.mark.skipif(spec is None or spec.origin is None, reason=f"{name} is not installed")


def trained(client: str, place: Path) -> list[dict[str, Any]]:
    """The log lines of a run of two steps that reported to the client; stdout must have been strict JSON lines."""
    env = {**os.environ, "WANDB_MODE": "offline", "TRACKIO_DIR": str(place / "trackio"), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "truegain.cli", *SMALL, "--report-to", client]
    done = subprocess.run(command, cwd=place, env=env, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    events = [json.loads(line) for line in done.stdout.splitlines()]
    assert events[-1]["kind"] == "report"
    lines = [json.loads(line) for line in (place / "run" / "log.jsonl").read_text().splitlines()]
    assert [(line["kind"], line["step"]) for line in lines] == [("eval", 0), ("step", 1), ("step", 2), ("eval", 2)]
    return lines


@needs("tensorboard")
def test_tensorboard_holds_what_the_log_holds(tmp_path: Path) -> None:
    lines = trained("tensorboard", tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        found = EventAccumulator(str(tmp_path / "run" / "tensorboard" / "seed-0" / "trained"))
        found.Reload()
    gold = [(event.step, event.value) for event in found.Scalars("eval/gold")]
    assert gold == [(line["step"], pytest.approx(line["gold"])) for line in lines if line["kind"] == "eval"]
    length = [(event.step, event.value) for event in found.Scalars("completions/mean_length")]
    assert length == [
        (line["step"], pytest.approx(line["completions/mean_length"])) for line in lines if line["kind"] == "step"
    ]
    assert "eval/seconds" in found.Tags()["scalars"]


def wandb_records(path: Path) -> Iterator[Any]:
    """The records of an offline run: a header of 7 bytes, then pieces (crc, size, kind) that cross no 32 KiB border."""
    from wandb.proto import wandb_internal_pb2 as kinds  # pyright: ignore[reportMissingImports]

    data, at, held = path.read_bytes(), 7, b""
    while at + 7 <= len(data):
        if (room := 32768 - at % 32768) < 7:
            at += room
            continue
        _, size, kind = struct.unpack("<IHB", data[at : at + 7])
        held = data[at + 7 : at + 7 + size] if kind in (1, 2) else held + data[at + 7 : at + 7 + size]
        at += 7 + size
        if kind in (1, 4):
            record = kinds.Record()
            record.ParseFromString(held)
            yield record


@needs("wandb")
def test_wandb_holds_what_the_log_holds_with_our_step_as_the_axis(tmp_path: Path) -> None:
    lines = trained("wandb", tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        records = list(wandb_records(next(tmp_path.glob("run/wandb/offline-run-*/*.wandb"))))
    run = next(r.run for r in records if r.WhichOneof("record_type") == "run")
    assert (run.display_name, run.run_group, run.project) == ("run/seed-0/trained", "run", "truegain")
    rows = [
        {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in r.history.item}
        for r in records
        if r.WhichOneof("record_type") == "history"
    ]
    assert [row["step"] for row in rows] == [line["step"] for line in lines]
    assert rows[0]["eval/gold"] == lines[0]["gold"]
    assert rows[1]["completions/mean_length"] == lines[1]["completions/mean_length"]
    axes = [r.metric for r in records if r.WhichOneof("record_type") == "metric"]
    assert any(axis.name == "eval/gold" or axis.glob_name == "*" for axis in axes)
    assert {r.exit.exit_code for r in records if r.WhichOneof("record_type") == "exit"} == {0}


@needs("trackio")
def test_trackio_holds_what_the_log_holds(tmp_path: Path) -> None:
    lines = trained("trackio", tmp_path)
    with sqlite3.connect(tmp_path / "trackio" / "truegain.db") as base:
        rows = [
            (name, step, json.loads(text))
            for name, step, text in base.execute("select run_name, step, metrics from metrics order by id")
        ]
    assert [(name, step) for name, step, _ in rows] == [("run/seed-0/trained", line["step"]) for line in lines]
    assert rows[0][2]["eval/gold"] == lines[0]["gold"]
    assert rows[1][2]["completions/mean_length"] == lines[1]["completions/mean_length"]
