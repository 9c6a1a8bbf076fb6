"""``truegain convert`` from the command line: what it writes, what it refuses, what it prints."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from truegain.cli.app import app
from truegain.core.errors import DataError, SettingError
from truegain.hosts.data import from_trl, from_verl_parquet, problems_of


def convert(*arguments: str) -> str:
    """Run the command in this process; errors that a user sees are raised as they are."""
    done = CliRunner().invoke(app, ["convert", *arguments], catch_exceptions=True)
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert done.exit_code == 0, done.output
    return done.stdout


def test_a_generated_task_becomes_three_files_for_trl_with_the_splits_kept(tmp_path: Path) -> None:
    out = convert("sort,level=5", "--to", "trl", "--out", str(tmp_path / "sort"), "--count", "7")
    assert f"{tmp_path / 'sort' / 'dev.jsonl'}: 7 dev problems" in out
    for split in ("train", "dev", "test"):
        found = from_trl(tmp_path / "sort" / f"{split}.jsonl")
        assert found == {split: problems_of("sort,level=5", split, 7)}


def test_a_data_file_becomes_one_parquet_file_for_verl(tmp_path: Path) -> None:
    file = tmp_path / "data.jsonl"
    rows = [{"prompt": f"{n}+1?", "answer": n + 1, "source": {"page": n}} for n in range(40)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    given = json.loads(
        convert(str(file), "--to", "verl", "--out", str(tmp_path / "v.parquet"), "--split", "train", "--json")
    )
    found = from_verl_parquet(tmp_path / "v.parquet")
    assert list(found) == ["train"]
    assert found["train"] == problems_of(str(file), "train")
    assert given["splits"] == [
        {
            "split": "train",
            "file": str(tmp_path / "v.parquet"),
            "problems": len(found["train"]),
            "without_answer": 0,
            "held": [],
        }
    ]


def test_rows_without_an_answer_are_for_reward_functions(tmp_path: Path) -> None:
    file = tmp_path / "open.jsonl"
    file.write_text("".join(json.dumps({"prompt": f"write about {n}"}) + "\n" for n in range(20)))
    for host in ("trl", "verl"):
        convert(str(file), "--to", host, "--out", str(tmp_path / f"{host}.parquet"), "--split", "train")
        back = (from_trl if host == "trl" else from_verl_parquet)(tmp_path / f"{host}.parquet")
        assert {problem.answer for problem in back["train"]} == {None}
    with pytest.raises(DataError, match="no column 'answer' or 'solution'"):
        convert(str(file), "--to", "verifiers", "--out", str(tmp_path / "pack"))


def test_columns_that_only_the_record_holds_are_told(tmp_path: Path) -> None:
    file = tmp_path / "data.jsonl"
    file.write_text("".join(json.dumps({"prompt": f"{n}?", "answer": 1, "note": {"n": n}}) + "\n" for n in range(30)))
    out = convert(str(file), "--to", "trl", "--out", str(tmp_path / "t.jsonl"), "--split", "train")
    assert out.strip().endswith("train problems; only in the column truegain: note")


def test_a_task_becomes_a_package_for_verifiers_asked_in_plain_english(tmp_path: Path) -> None:
    convert("sort,level=5", "--to", "verifiers", "--out", str(tmp_path / "my-sort"), "--count", "3")
    (first, *_) = from_trl(tmp_path / "my-sort" / "my_sort" / "train.jsonl")["train"]
    assert str(first.prompt[0]["content"]).startswith("Sort these digits")  # type: ignore[index]
    assert first.meta["checked_by"] == "sort,level=5"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["sort", "--to", "tlr", "--out", "x"], r"unknown host 'tlr' \(did you mean 'trl'\?\)"),
        (["sort", "--to", "trl", "--out", "x"], "say how many to take by --count"),
        (["sort", "--to", "trl", "--out", "x", "--split", "tset", "--count", "2"], r"unknown split 'tset' \(did you"),
        (["sort", "--to", "trl", "--out", "x.jsonl", "--count", "2"], "three splits do not go into one file"),
        (["sort", "--to", "trl", "--out", "x", "--split", "dev", "--count", "2"], "ends in .jsonl or .parquet"),
        (["sort", "--to", "trl", "--out", "here.jsonl", "--split", "dev", "--count", "2"], "--overwrite replaces it"),
        (["sort", "--to", "verifiers", "--out", "here.jsonl", "--count", "2"], "makes a new folder"),
        (["sort", "--to", "verifiers", "--out", "1 x", "--count", "2"], "its last part names the package"),
        (["calculator", "--to", "verifiers", "--out", "x", "--count", "2"], "calculator has a tool that answers"),
        (["bandit", "--to", "verifiers", "--out", "x", "--count", "2"], "bandit is for the table policy"),
        (["sotr", "--to", "trl", "--out", "x", "--count", "2"], r"unknown task 'sotr' \(did you mean 'sort'\?\)"),
    ],
)
def test_what_it_cannot_do_it_refuses_and_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here.jsonl").write_text("{}\n")
    with pytest.raises(SettingError, match=message):
        convert(*arguments)
    assert [path.name for path in tmp_path.iterdir()] == ["here.jsonl"]


def test_a_split_without_problems_gets_no_file(tmp_path: Path) -> None:
    file = tmp_path / "one.jsonl"
    file.write_text('{"prompt": "1+1?", "answer": 2}\n')
    out = convert(str(file), "--to", "trl", "--out", str(tmp_path / "sets"))
    assert len(list((tmp_path / "sets").iterdir())) == 1
    assert out.count(", so no file") == 2


def test_overwrite_replaces_what_is_there(tmp_path: Path) -> None:
    file = tmp_path / "here.jsonl"
    file.write_text("{}\n")
    convert("sort", "--to", "trl", "--out", str(file), "--split", "dev", "--count", "2", "--overwrite")
    assert len(from_trl(file)["dev"]) == 2


def test_a_bad_file_is_one_line_and_exit_code_1(tmp_path: Path) -> None:
    (tmp_path / "bad.jsonl").write_text('{"prompt": "x", "answer": 1}\n{"prompt"\n')
    command = [sys.executable, "-m", "truegain.cli", "convert", "bad.jsonl", "--to", "trl", "--out", "x"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=dict(os.environ), check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("error: bad.jsonl, line 2: bad JSON")
    assert len(done.stderr.splitlines()) == 1
