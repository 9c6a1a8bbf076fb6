"""What was converted converts again with its problems, ids and splits as they were; a test prompt never trains."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from truegain.cli.app import app
from truegain.core.errors import DataError, SettingError
from truegain.core.types import SPLITS, Problem
from truegain.hosts._records import Recorded, recorded
from truegain.hosts.data import from_trl, from_verl_parquet, problems_of, to_trl, to_verl_parquet, trl_rows, write


def convert(*arguments: Any) -> str:
    done = CliRunner().invoke(app, ["convert", *map(str, arguments)], catch_exceptions=True)
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert done.exit_code == 0, done.output
    return done.stdout


@pytest.fixture
def sets(tmp_path: Path) -> Path:
    """A data file of 40 rows, converted for TRL: three files in a folder."""
    file = tmp_path / "data.jsonl"
    file.write_text(
        "".join(json.dumps({"prompt": f"{n}+1?", "answer": n + 1, "k": {"n": n}}) + "\n" for n in range(40))
    )
    convert(file, "--to", "trl", "--out", tmp_path / "sets")
    return tmp_path / "sets"


def all_of(folder: Path, read: Any) -> dict[str, list[Problem]]:
    return {split: problems for path in folder.iterdir() for split, problems in read(path).items()}


def test_a_folder_goes_on_to_verl_and_back_to_trl_with_every_problem_in_its_split(sets: Path, tmp_path: Path) -> None:
    before = all_of(sets, from_trl)
    assert {split: bool(before[split]) for split in SPLITS} == dict.fromkeys(SPLITS, True)
    convert(sets, "--to", "verl", "--out", tmp_path / "verl")
    assert all_of(tmp_path / "verl", from_verl_parquet) == before
    convert(tmp_path / "verl", "--to", "trl", "--out", tmp_path / "again")
    assert all_of(tmp_path / "again", from_trl) == before
    assert (tmp_path / "again" / "test.jsonl").read_text() == (sets / "test.jsonl").read_text()


def test_one_file_goes_on_whole_and_the_splits_that_it_lacks_get_no_file(sets: Path, tmp_path: Path) -> None:
    train = from_trl(sets / "train.jsonl")["train"]
    out = convert(sets / "train.jsonl", "--to", "verl", "--out", tmp_path / "verl")
    assert [path.name for path in (tmp_path / "verl").iterdir()] == ["train.parquet"]
    assert from_verl_parquet(tmp_path / "verl" / "train.parquet") == {"train": train}
    assert out.count(", so no file") == 2
    with pytest.raises(SettingError, match="no problem in test"):
        convert(sets / "train.jsonl", "--to", "trl", "--split", "test", "--out", tmp_path / "t.jsonl")


def test_the_functions_keep_the_splits_as_the_command_does(sets: Path, tmp_path: Path) -> None:
    test = from_trl(sets / "test.jsonl")["test"]
    assert problems_of(str(sets), "test") == test
    assert problems_of(str(sets / "test.jsonl"), "train") == []
    assert from_trl(to_trl(str(sets), "test")) == {"test": test}
    assert from_verl_parquet(to_verl_parquet(str(sets), tmp_path / "v.parquet", "test")) == {"test": test}
    named = problems_of(f"{sets / 'train.jsonl'},test={sets / 'test.jsonl'}", "test")
    assert named == test


def test_rows_of_other_peoples_data_are_dealt_out_as_before(tmp_path: Path) -> None:
    file = tmp_path / "data.jsonl"
    file.write_text("".join(json.dumps({"prompt": f"{n}?", "answer": n}) + "\n" for n in range(40)))
    assert recorded(str(file)) is None
    assert 20 < len(problems_of(str(file), "train")) < 40
    assert recorded(f"{file},prompt_column=prompt") is None
    assert recorded("sort,level=6") is None
    with pytest.raises(DataError, match=r"is a folder, not a data file; name a file in it: data.jsonl"):
        convert(tmp_path, "--to", "trl", "--out", tmp_path / "out")


def test_a_file_whose_rows_were_mixed_with_others_is_refused_by_the_row(sets: Path) -> None:
    with (sets / "train.jsonl").open("a") as file:
        file.write('{"prompt": "new", "answer": 1}\n')
    lines = len((sets / "train.jsonl").read_text().splitlines())
    with pytest.raises(DataError, match=rf"train.jsonl, line {lines}: no column 'truegain', which other rows"):
        convert(sets, "--to", "verl", "--out", sets.parent / "out")


def test_a_row_that_comes_twice_is_kept_once_and_one_id_is_one_problem_in_one_split(tmp_path: Path) -> None:
    one, other = Problem("a", "x", "1"), Problem("a", "y", "1")
    twice = write(trl_rows([one] * 1000).rows, tmp_path / "twice.jsonl")
    assert problems_of(str(twice), "train") == [one]
    leak = write(trl_rows([one], "test").rows, tmp_path / "leak.jsonl")
    with pytest.raises(
        DataError, match=r"leak.jsonl, line 1: the problem a is in another split at .*twice.jsonl, line 1"
    ):
        Recorded([twice, leak])
    unlike = write(trl_rows([other]).rows, tmp_path / "unlike.jsonl")
    with pytest.raises(DataError, match="the problem a is another problem at"):
        Recorded([twice, unlike])


def test_a_package_for_verifiers_is_made_of_converted_answers_and_not_of_a_tasks_problems(
    sets: Path, tmp_path: Path
) -> None:
    convert(f"{sets},checker=math", "--to", "verifiers", "--out", tmp_path / "pack")
    (first, *_) = from_trl(tmp_path / "pack" / "pack" / "test.jsonl")["test"]
    assert first.id == from_trl(sets / "test.jsonl")["test"][0].id
    assert first.meta["checked_by"] == "math"
    convert("countdown", "--to", "trl", "--out", tmp_path / "made", "--count", 3)
    with pytest.raises(SettingError, match="problems of the task countdown, which checks them; name it instead"):
        convert(tmp_path / "made", "--to", "verifiers", "--out", tmp_path / "other")


def test_rows_without_an_answer_are_counted(tmp_path: Path) -> None:
    file = tmp_path / "open.jsonl"
    file.write_text("".join(json.dumps({"question": f"write {n}"}) + "\n" for n in range(30)))
    out = convert(file, "--to", "trl", "--out", tmp_path / "t.jsonl", "--split", "train")
    count = len(problems_of(str(tmp_path / "t.jsonl"), "train"))
    assert f"{count} train problems; {count} have no answer to check against" in out
    shown = json.loads(convert(tmp_path / "t.jsonl", "--to", "verl", "--out", tmp_path / "v", "--json"))
    assert [one["without_answer"] for one in shown["splits"]] == [count, 0, 0]
    for task in ("bandit", "sort"):
        assert "no answer" not in convert(task, "--to", "trl", "--out", tmp_path / task, "--count", 2)
