"""`truegain train`: from options to a plan, events as JSON lines, the report last, a run that goes on."""

from __future__ import annotations

import json
import os
import shlex
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from truegain.cli import reporters
from truegain.cli.__main__ import main
from truegain.cli.train import AS_MANY_AS_FIT

SMALL = shlex.split(
    "train grpo --task sort,level=2 --model table --steps 2 --dev-problems 4 --test-problems 10 --eval-samples 1"
    " --set prompts=2 --set samples=2 --set eval_problems=2"
)


@pytest.fixture
def planned(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The plans that train commands would run."""
    plans: list[Any] = []

    def run(plan: Any, **_: Any) -> int:
        plans.append(plan)
        return 0

    monkeypatch.setattr("truegain.cli.drive.run", run)
    return plans


def lines_of(out: str) -> list[dict[str, Any]]:
    """Strict JSON, one object per line."""
    return [
        json.loads(line, parse_constant=lambda name: pytest.fail(f"{name} is no JSON")) for line in out.splitlines()
    ]


def test_options_make_the_plan_and_flags_win_over_the_file(planned: list[Any], tmp_path: Path) -> None:
    config = tmp_path / "run.toml"
    config.write_text('recipe = "grpo"\ntask = "add"\nseeds = 2\neval-samples = 3\n[set]\nlr = 0.5\nclip = 0.3\n')
    assert main(["train", "--config", str(config), "--task", "sort", "--seed", "4", "--set", "lr=0.25"]) == 0
    plan = planned[0]
    assert (plan.recipe, plan.task, plan.model, plan.seeds) == ("grpo", "sort", "tiny", (4, 5))
    assert plan.form.loop.lr == 0.25
    assert plan.form.terms[0].surrogate[0].keywords["clip_low"] == 0.3
    assert plan.sizes["samples"] == 3
    assert plan.blind is None


def test_a_run_without_a_folder_gets_one_of_its_own_and_its_command_names_it(planned: list[Any]) -> None:
    assert main(["train", "grpo", "--task", "sort,level=3+add"]) == 0
    plan = planned[0]
    assert plan.out.parent == Path("runs")
    assert plan.out.name.startswith("grpo-sort-level-3-add-")
    assert plan.command == f"truegain train grpo --task sort,level=3+add --out {plan.out}"
    assert plan.argv[-1] == str(plan.out)


@pytest.mark.parametrize(
    ("more", "steps"),
    [
        ((), 100),
        (("--steps", "7"), 7),
        (("--max-seconds", "9"), AS_MANY_AS_FIT),
        (("--max-seconds", "9", "--steps", "7"), 7),
        (("--max-seconds", "9", "--set", "steps=7"), 7),
        (("--max-seconds", "9", "--set", "decay=linear"), 100),
    ],
)
def test_time_alone_bounds_a_run_unless_steps_are_asked_for_or_a_schedule_needs_them(
    planned: list[Any], more: tuple[str, ...], steps: int
) -> None:
    assert main(["train", "grpo", "--task", "sort", *more]) == 0
    assert planned[0].form.loop.steps == steps


def test_json_is_strict_lines_of_events_with_the_report_last_and_the_run_goes_on_when_asked_again(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    command = [*SMALL, "--out", str(tmp_path / "run"), "--json"]
    assert main(command) == 0
    events = lines_of(capsys.readouterr().out)
    assert [e["step"] for e in events if e["kind"] == "step"] == [1, 2]
    assert {"arm", "eval", "judge", "done"} <= {e["kind"] for e in events}
    report = events[-1]
    assert report["kind"] == "report"
    assert {"mean", "low", "high"} <= report["gain"].keys()
    assert "verdict" in report
    assert Path(report["page"]).is_file()

    assert main(command) == 0
    again = lines_of(capsys.readouterr().out)
    assert not [e for e in again if e["kind"] == "step"]
    assert again[-1]["gain"] == report["gain"]

    assert main(["report", str(tmp_path / "run"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["gain"] == report["gain"]


def test_without_a_terminal_progress_is_plain_lines_and_the_verdict_comes_last(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert main([*SMALL, "--seeds", "2", "--out", str(tmp_path / "run")]) == 0
    out, err = capsys.readouterr()
    assert "\x1b" not in out
    assert "seed 0 · trained: step 0, dev: gold" in out
    assert "seed 1 · judging: trained: test at temperature 1" in out
    assert "page: " in out.splitlines()[-1]
    assert str(tmp_path / "run") in err


@pytest.mark.parametrize(("which", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_stops_at_the_next_step_and_prints_the_command_that_goes_on(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, which: int, code: int
) -> None:
    def execute(plan: Any, stop: Any) -> Iterator[dict[str, Any]]:
        os.kill(os.getpid(), which)
        assert stop.reason() is not None
        yield {"kind": "note", "seed": 0, "arm": "trained", "step": 1, "text": "stopped"}

    monkeypatch.setattr("truegain.train.run.execute", execute)
    assert main([*SMALL, "--out", str(tmp_path / "a run"), "--json"]) == code
    out, err = capsys.readouterr()
    assert [e["kind"] for e in lines_of(out)] == ["note"]
    assert f"  truegain {' '.join(SMALL)} --out '{tmp_path}/a run' --json\n" in err


def test_a_resumed_run_keeps_its_number_of_threads(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from types import SimpleNamespace
    from typing import cast

    from truegain.cli.drive import set_threads

    asked: list[int] = []
    monkeypatch.setattr("torch.set_num_threads", asked.append)
    (tmp_path / "settings.json").write_text('{"threads": 7}')
    assert set_threads(cast(Any, SimpleNamespace(out=tmp_path, seeds=(0,)))) == 7
    assert asked == [7]


def test_every_arm_is_reported_as_a_run_of_its_own_with_the_names_of_the_log(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    sent: list[tuple[str, int, dict[str, float]]] = []
    closed: list[str] = []

    def fake(out: Path, run: str, settings: Any) -> Any:
        return lambda step, found: sent.append((run, step, found)), lambda: closed.append(run)

    monkeypatch.setitem(reporters._OPEN, "tensorboard", fake)
    step = {"kind": "step", "seed": 1, "arm": "trained", "step": 3, "reward": 0.5, "note": "x", "loss": float("nan")}
    with reporters.reporters(["tensorboard"], tmp_path, {}) as send:
        send({"kind": "arm", "seed": 1, "arm": "trained", "steps": 9})
        send({**step, "ledger": {"flops": 12}})
        send({**step, "arm": "control:more-sft"})
        assert closed == ["seed-1/trained"]
    assert sent == [
        ("seed-1/trained", 3, {"reward": 0.5, "ledger/flops": 12.0}),
        ("seed-1/control-more-sft", 3, {"reward": 0.5}),
    ]
    assert closed == ["seed-1/trained", "seed-1/control-more-sft"]


def test_a_folder_of_a_clients_name_is_not_taken_for_the_client(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "trackio").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    assert main([*SMALL, "--report-to", "trackio"]) == 1
    assert "pip install trackio" in capsys.readouterr().err


def test_a_dry_run_shows_the_prompt_and_the_cost_and_writes_nothing(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    command = [*SMALL, "--out", str(tmp_path / "run"), "--dry-run"]
    assert main([*command, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["prompt"].startswith("<bos>sort ")
    assert found["seconds_per_step"] > 0
    assert main(command) == 0
    out = capsys.readouterr().out
    assert "credit.group_normalise" in out
    assert found["prompt"].rstrip() in out
    assert not (tmp_path / "run").exists()
