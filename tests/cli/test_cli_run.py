"""`truegain run`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from truegain.cli.__main__ import main
from truegain.cli.describe import command
from truegain.cli.run import step_text
from truegain.cli.variant import forms
from truegain.core.errors import SettingError
from truegain.core.system import SYSTEMS


def test_a_study_prints_its_record_and_writes_it(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    out, small = tmp_path / "study", ["--set", "updates=1"]
    assert main(["run", "grpo-guard", "--out", str(out), *small, "--seed", "4"]) == 0
    record = json.loads((out / "1-study" / "record.json").read_text())
    shown = capsys.readouterr().out
    assert f"{record['proxy']:.4g}" in shown and "1-study: record in" in shown
    # once more: nothing is run, and another seed is another run
    assert main(["run", "grpo-guard", "--out", str(out), *small, "--seed", "4"]) == 0
    assert "(done before)" in capsys.readouterr().out
    assert main(["run", "grpo-guard", "--out", str(out), *small, "--seed", "5"]) == 1
    assert "other settings" in capsys.readouterr().err


def test_a_fit_runs_from_the_command_line_and_json_lines_say_what_it_left(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    out = tmp_path / "fit"
    words = ["run", "dco-limit-confidence", "--task", "sort,level=2", "--model", "table", "--out", str(out), "--json"]
    assert main([*words, "--set", "steps=2", "--set", "1.prompts=2"]) == 0
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [e["kind"] for e in events] == ["stage", "begin", "step", "step", "left"]
    assert events[-1]["policy"] == "model" and (out / "1-fit" / "model" / "model.safetensors").is_file()
    assert json.loads((out / "settings.json").read_text())["forms"]["1-fit"]["loop.prompts"] == 2


def test_a_single_train_runs_as_truegain_train_does_and_is_judged(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    out = tmp_path / "rl"
    words = ["run", "reinforce", "--task", "bandit,level=4", "--model", "table", "--out", str(out)]
    words += ["--set", "steps=2", "--set", "max_tokens=1", "--dev-problems", "2", "--test-problems", "2"]
    assert main([*words, "--eval-samples", "1"]) == 0
    assert (out / "1-train" / "report.html").is_file() and (out / "1-train" / "model" / "model.safetensors").is_file()
    assert "page:" in capsys.readouterr().out


def test_a_dry_run_shows_every_form_and_starts_nothing(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    out = tmp_path / "dry"
    assert main(["run", "sft", "--task", "sort", "--out", str(out), "--dry-run"]) == 0
    assert "1-fit: Fit" in capsys.readouterr().out and not out.exists()


def test_refusals_are_one_line_that_names_the_mend(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    for words, said in (
        (["run", "sft", "--out", str(tmp_path / "x")], "sft needs --task"),
        (["run", "grpo-guarb"], "grpo-guard"),
        (["run", "verpo", "--task", "sort", "--out", str(tmp_path / "x")], "needs column"),
        (["run", "sft", "--task", "sort", "--set", "2.steps=1"], "unknown setting"),
        (["run", "sft", "--task", "sort", "--max-seconds", "0"], "--max-seconds must be above 0"),
    ):
        assert main(words) != 0
        (line,) = capsys.readouterr().err.strip().splitlines()[-1:]
        assert said in line
    assert not (tmp_path / "x").exists()


def test_a_number_before_a_setting_means_that_form_alone() -> None:
    (form,) = forms("sft", {"1.steps": "7"})
    assert form.loop.steps == 7
    with pytest.raises(SettingError, match="unknown setting"):
        forms("sft", {"3.steps": "7"})


def test_show_prints_a_command_line_that_runs_the_system(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", "grpo-guard"]) == 0
    assert "truegain run grpo-guard" in capsys.readouterr().out
    assert main(["show", "pure"]) == 0
    assert "truegain train pure --task chain,style=trace" in capsys.readouterr().out


def test_every_system_has_a_command_line_with_a_task_that_suits_it() -> None:
    for name in SYSTEMS:
        built = forms(name, {})
        line = command(name, built, {"steps": "3"})
        assert line.startswith("truegain ") and line.endswith("--set steps=3")
        assert " TASK" not in line, name


def test_a_step_says_what_it_has() -> None:
    assert step_text({"loss": 1.0, "learning_rate": 1e-3}) == "loss 1.0000, lr 1.0e-03"
    assert step_text({"rows": 3, "correct": 0.5}) == "3 rows kept, 50 % right"
