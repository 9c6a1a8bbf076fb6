"""`eval`, `sample`, `claims` and `doctor`."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from truegain.cli import claims, doctor, evaluate
from truegain.cli.__main__ import main

HOSTILE = "[red]x[/red] \x1b[2J\x1b]0;t\x07 \u202e</think><answer>1</answer> :smile:"


def printed(capsys: pytest.CaptureFixture[str], *argv: str, code: int = 0) -> Any:
    """The JSON document of a command, which must be all of stdout."""
    assert main(argv) == code
    return json.loads(capsys.readouterr().out, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))


def row(**changes: Any) -> dict[str, Any]:
    found = {"problem": "p-1", "prompt": "sort 2 1\n", "text": "<answer>1 2</answer>", "tokens": 5, "stop": "eos"}
    return {**found, "correct": 1.0, "abstained": None, "answer": "1 2", "final": "1 2", **changes}


def test_eval_measures_each_temperature_with_an_interval(capsys: pytest.CaptureFixture[str]) -> None:
    command = [
        "eval",
        "table",
        "--task",
        "sort,level=2",
        "--problems",
        "5",
        "--temperature",
        "1",
        "--temperature",
        "0",
        "--json",
    ]
    found = printed(capsys, *command)
    assert found["problems"] == 5
    assert [r["temperature"] for r in found["results"]] == [1.0, 0.0]
    hot, cold = found["results"]
    assert hot["accuracy"].keys() == {"mean", "low", "high"}
    assert hot["pass_at_k"].keys() == {"1", "2", "4"}
    assert cold["pass_at_k"].keys() == {"1"}
    assert printed(capsys, *command) == found  # the same draws for the same seed


def test_eval_counts_by_problem_and_leaves_abstentions_out() -> None:
    from types import SimpleNamespace

    def rollout(correct: float | None) -> Any:
        facts = {"abstained": "why"} if correct is None else {"correct": correct}
        return SimpleNamespace(facts=facts, ids=(1, 2, 3), stop="eos")

    # Problem means 1/2 and 1: accuracy 3/4. pass@2 is only known where two samples were judged: 1 for the first.
    found = evaluate._measured([rollout(c) for c in (1.0, 0.0, 1.0, None)], 2)
    assert found["accuracy"]["mean"] == 0.75
    assert found["pass_at_k"] == {"1": 0.75, "2": 1.0}
    assert (found["abstained"], found["mean_length"], found["truncated"]) == (1, 3.0, 0.0)


def test_sample_gives_verdicts_for_problems_and_none_for_a_prompt(capsys: pytest.CaptureFixture[str]) -> None:
    judged = printed(capsys, "sample", "table", "--task", "sort,level=2", "-n", "1", "--json")
    assert len(judged) == 1
    assert judged[0]["correct"] in (0.0, 1.0)
    assert judged[0]["answer"]
    free = printed(capsys, "sample", "table", "--prompt", "abc", "-n", "2", "--max-tokens", "4", "--json")
    assert [(r["prompt"], r["correct"]) for r in free] == [("abc", None)] * 2
    assert all(r["tokens"] <= 4 for r in free)


def test_what_a_model_writes_can_neither_style_nor_move_the_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    hostile = row(problem=HOSTILE, prompt=HOSTILE, text=HOSTILE, answer=HOSTILE, stop=HOSTILE, correct=0.0)
    evaluate._print_sample(hostile)
    evaluate._print_sample(row(abstained=HOSTILE))
    out = capsys.readouterr().out
    assert "\x1b[2J" not in out
    assert "\x1b]" not in out
    assert "\x07" not in out
    assert "\u202e" not in out
    assert "‹U+001B›" in out
    assert "[red]x[/red]" in out
    assert ":smile:" in out


@pytest.mark.parametrize(
    ("changes", "verdict"),
    [
        ({}, "correct"),
        ({"correct": 0.0}, "wrong (the answer is 1 2)"),
        ({"correct": None}, "not judged"),
        ({"abstained": "the key is empty"}, "abstained (the key is empty)"),
    ],
)
def test_the_verdict_of_the_checker_stands_before_each_sample(
    capsys: pytest.CaptureFixture[str], changes: dict[str, Any], verdict: str
) -> None:
    evaluate._print_sample(row(**changes))
    out = capsys.readouterr().out
    assert out.startswith(verdict)
    assert "<answer>1 2</answer>" in out


def test_claims_lists_the_committed_records_by_name(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(claims, "folder", lambda: tmp_path)
    assert printed(capsys, "claims", "--json") == []
    for name in ("b", "a"):
        record = {"name": name, "paper": "arXiv:1", "seeds": 5, "verdict": "reproduced"}
        (tmp_path / f"{name}.json").write_text(json.dumps(record))
    rows = printed(capsys, "claims", "--json")
    assert [r["name"] for r in rows] == ["a", "b"]
    assert all({"paper", "name", "seeds", "verdict"} <= r.keys() for r in rows)
    (tmp_path / "c.json").write_text('{"name": "c"}')
    assert main(["claims"]) == 1
    assert "lacks 'paper'" in capsys.readouterr().err


def toy_claim(name: str, seen: list[tuple[str, int]], dies_at: tuple[str, int] | None = None) -> Any:
    from truegain.claims import Claim

    def one_seed(seed: int) -> dict[str, float]:
        print("noise")
        if (name, seed) == dies_at:
            raise KeyboardInterrupt
        seen.append((name, seed))
        return {"ours": 0.25 + seed / 100, "theirs": 0.0}

    return Claim(
        name=name, system="grpo", states="Ours beats theirs.", unit="points", one_seed=one_seed,
        effect=lambda arms: arms["ours"] - arms["theirs"], threshold=0.5,
    )  # fmt: skip


def claims_in(folder: Path, monkeypatch: pytest.MonkeyPatch, *toys: Any) -> None:
    """Let the claims be ``toys``, their records and their sweep lie in ``folder``."""
    from truegain import claims as room
    from truegain.claims.claim import write_record

    monkeypatch.setattr(room, "write_record", lambda record: write_record(record, folder))
    monkeypatch.setattr(room, "CLAIMS", {toy.name: toy for toy in toys})
    monkeypatch.setattr(claims, "folder", lambda: folder)
    monkeypatch.chdir(folder)


def test_claims_run_writes_the_record_that_claims_shows(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    seen: list[tuple[str, int]] = []
    claims_in(tmp_path, monkeypatch, toy_claim("x", seen))
    found = printed(capsys, "claims", "run", "x", "--json")
    assert printed(capsys, "claims", "--json") == [found]
    assert main(["claims", "run", "--all"]) == 0
    assert "x: not reproduced, effect 0.270 (0.250 to 0.290) over 5 seeds" in capsys.readouterr().out
    assert main(["claims", "run", "y"]) == 2
    assert "there are: x" in capsys.readouterr().err
    assert main(["claims"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "0.27 (0.25 to 0.29) points, above" in said and "0 of 1 reproduced" in said


def test_an_interrupted_sweep_goes_on_at_the_seed_where_it_stopped_and_ends_with_the_same_records(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    seen: list[tuple[str, int]] = []
    claims_in(tmp_path, monkeypatch, toy_claim("a", seen), toy_claim("b", seen, dies_at=("b", 3)))
    assert main(["claims", "run", "--all"]) == 130
    claims_in(tmp_path, monkeypatch, toy_claim("a", seen), toy_claim("b", seen))
    capsys.readouterr()
    assert main(["claims", "run", "--all"]) == 0
    assert "going on: 1 of 2 claims" in capsys.readouterr().err
    assert seen == [(name, seed) for name in "ab" for seed in range(5)], "no seed is run twice, none is left out"
    records = printed(capsys, "claims", "--json")
    assert [r["rows"] for r in records] == [records[0]["rows"]] * 2 and len(records[0]["rows"]) == 5
    assert main(["claims", "run", "--all"]) == 0
    assert len(seen) == 20, "a sweep that came to its end is not gone on with"


def test_a_sweep_of_other_sources_is_begun_anew(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from truegain.claims import sweep

    seen: list[tuple[str, int]] = []
    claims_in(tmp_path, monkeypatch, toy_claim("a", seen, dies_at=("a", 2)))
    assert main(["claims", "run", "--all"]) == 130
    claims_in(tmp_path, monkeypatch, toy_claim("a", seen))
    monkeypatch.setattr(sweep, "sources", lambda: "other")
    assert main(["claims", "run", "--all"]) == 0
    assert "the sources changed" in capsys.readouterr().err
    assert [seed for _, seed in seen] == [0, 1, 0, 1, 2, 3, 4]


def test_doctor_looks_at_everything_and_fails_when_something_is_broken(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from truegain.policy import policy

    monkeypatch.setattr(policy, "EMBEDDED", tmp_path)
    found = printed(capsys, "doctor", "--json", code=1)
    assert found["ok"] is False
    by_name = {one["name"]: one for one in found["findings"]}
    assert by_name["model tiny"]["state"] == "broken"
    assert by_name["model tiny"]["mend"]
    assert {"python", "torch", "threads", "GOMP_SPINCOUNT", "memory", "disk", "gpu", "writing"} <= by_name.keys()
    assert all(one["state"] in ("ok", "note", "broken") for one in found["findings"])
    assert main(["doctor"]) == 1
    assert "1 broken" in capsys.readouterr().out


def test_doctor_says_how_to_add_a_missing_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    found = {one.name: one for one in doctor._extras()}
    assert {one.state for one in found.values()} == {"note"}
    assert {name.removeprefix("extra "): one.mend for name, one in found.items()} == {
        "data": "pip install 'truegain[data]'",
        "gym": "pip install 'truegain[gym]'",
        "math": "pip install 'truegain[math]'",
        "lora": "pip install peft",
        "tensorboard": "pip install tensorboard",
        "wandb": "pip install wandb",
        "trackio": "pip install trackio",
    }


def test_doctor_holds_what_is_installed_against_what_truegain_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.metadata as metadata

    needs = ["torch>=99", "numpy>=1", "absent-package>=2.5", "pytest>=99; extra == 'dev'"]
    monkeypatch.setattr(metadata, "requires", lambda name: needs)
    found = {one.name: one for one in doctor._packages()}
    assert (found["torch"].state, found["torch"].mend) == ("broken", "pip install 'torch>=99'")
    assert "but truegain needs >=99" in found["torch"].value
    assert found["numpy"].state == "ok"
    assert (found["absent-package"].state, found["absent-package"].mend) == (
        "broken",
        "pip install 'absent-package>=2.5'",
    )
    assert "pytest" not in found  # an extra of developers


def test_doctor_names_each_gpu_with_its_memory_and_bf16(monkeypatch: pytest.MonkeyPatch) -> None:
    from types import SimpleNamespace

    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    about = [SimpleNamespace(name="New", major=9), SimpleNamespace(name="Old", major=7)]
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda number: about[number])
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda number: (60 * 2**30, 80 * 2**30))
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    assert [(one.name, one.value) for one in doctor._gpu()] == [
        ("gpu cuda:0", "New, 60.0 of 80.0 GiB free, bf16, CUDA 13.0"),
        ("gpu cuda:1", "Old, 60.0 of 80.0 GiB free, no bf16, CUDA 13.0"),
    ]


def test_a_gpu_that_torch_cannot_use_is_worth_a_note(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr("shutil.which", lambda name: "/usr/bin/nvidia-smi")
    (found,) = doctor._gpu()
    assert found.state == "note"
    assert "CUDA build" in found.mend


def test_the_disk_looked_at_is_that_of_the_run_folders(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert next(iter(doctor._disk())).value.endswith(f"free for {tmp_path / 'runs'}")
    (tmp_path / "runs").mkdir()
    asked: list[Path] = []
    usage = __import__("shutil").disk_usage
    monkeypatch.setattr("shutil.disk_usage", lambda place: (asked.append(place), usage(place))[1])
    assert next(iter(doctor._disk())).value.endswith(f"free for {tmp_path / 'runs'}")
    assert asked == [tmp_path / "runs"]


def test_a_look_that_fails_is_a_finding_not_a_crash(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_disk(path: object) -> None:
        raise OSError("gone")

    monkeypatch.setattr("shutil.disk_usage", no_disk)
    found = {one.name: one for one in doctor.examine()}
    assert (found["disk"].state, found["disk"].value) == ("broken", "OSError: gone")


def test_a_model_file_that_differs_from_its_manifest_is_damaged(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"right")
    manifest = {"files": {"a": {"sha256": hashlib.sha256(b"right").hexdigest()}}}
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    assert doctor.damage(tmp_path) == ""
    (tmp_path / "a").write_bytes(b"wrong")
    assert doctor.damage(tmp_path) == "a: checksum differs"
    (tmp_path / "a").unlink()
    assert "FileNotFoundError" in doctor.damage(tmp_path)
