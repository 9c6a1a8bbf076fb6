"""`truegain fit`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from truegain.cli.__main__ import main
from truegain.core.errors import DataError
from truegain.core.types import Problem
from truegain.policy.policy import Policy
from truegain.train.tiny import demonstration_example


def test_fit_sft_learns_on_demonstrations_and_goes_on_in_the_same_folder(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    out = tmp_path / "fit"
    command = ["fit", "sft", "--task", "sort,level=2", "--model", "table", "--out", str(out), "--batch-tokens", "64"]
    assert main([*command, "--steps", "2"]) == 0
    assert main([*command, "--steps", "3"]) == 0
    state = json.loads((out / "checkpoint" / "fit_state.json").read_text())
    assert state["step"] == 3
    assert "step 3" in capsys.readouterr().err
    before, after = (Policy.load(m).weights() for m in ("table", str(out / "model")))
    assert any(not value.equal(after[name]) for name, value in before.items())


def test_fit_sft_refuses_a_task_without_reference_completions(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    file = tmp_path / "data.jsonl"
    file.write_text("".join(json.dumps({"prompt": f"p{i}", "answer": "1"}) + "\n" for i in range(9)))
    assert main(["fit", "sft", "--task", str(file), "--out", str(tmp_path / "x")]) == 2
    assert "no reference completions" in capsys.readouterr().err


def test_fit_sft_learns_the_completions_of_a_data_file_and_needs_no_answers(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    file, out = tmp_path / "data.jsonl", tmp_path / "fit"
    rows = [{"prompt": f"{i}+1=", "completion": f"{i + 1}"} for i in range(40)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    command = ["fit", "sft", "--task", str(file), "--model", "table", "--out", str(out), "--steps", "3"]
    assert main([*command, "--batch-tokens", "64"]) == 0
    before, after = (Policy.load(m).weights() for m in ("table", str(out / "model")))
    assert any(not value.equal(after[name]) for name, value in before.items())


def test_a_demonstration_longer_than_the_model_reads_loses_its_end_and_its_end_mark() -> None:
    policy = Policy.load("tiny")
    whole = demonstration_example(policy, Problem("p", "1+1="), "2" * 50)
    cut = demonstration_example(policy, Problem("p", "1+1="), "2" * 50, room=len(whole.prompt) + 10)
    assert whole.completion[-1] == policy.tokenizer.eos_token_id
    assert (cut.completion, cut.mask) == (whole.completion[:10], (True,) * 10)
    with pytest.raises(DataError, match="its prompt has"):
        demonstration_example(policy, Problem("p", "1+1="), "2", room=2)


def test_fit_tiny_passes_its_options_on_and_ctrl_c_says_how_to_go_on(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    given: dict[str, Any] = {}

    def fit_tiny(out: Path, form: Any, **options: Any) -> Path:
        given.update(options, out=out)
        return out

    monkeypatch.setattr("truegain.train.tiny.fit_tiny", fit_tiny)
    assert main(["fit", "tiny", "--out", str(tmp_path), "--seconds", "5", "--seed", "2", "--lr", "0.5"]) == 0
    assert (given["out"], given["seconds"], given["seed"], given["lr"], given["resume"]) == (
        tmp_path,
        5.0,
        2,
        0.5,
        None,
    )

    assert "decay" not in given  # what is not asked for keeps the shipped model's setting

    def interrupted(out: Path, form: Any, **_: Any) -> Path:
        raise KeyboardInterrupt

    monkeypatch.setattr("truegain.train.tiny.fit_tiny", interrupted)
    assert main(["fit", "tiny", "--out", str(tmp_path)]) == 130
    assert f"--resume {tmp_path}/snapshot-NNN" in capsys.readouterr().err
