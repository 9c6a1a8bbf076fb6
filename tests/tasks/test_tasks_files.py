"""Data files and mixtures: a row is in one split, answers are compared exactly, bad input is one line."""

from __future__ import annotations

import json
import math
import os
from collections import Counter
from fractions import Fraction
from hashlib import blake2b
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from truegain.core.errors import DataError, SettingError
from truegain.core.types import SPLITS, Abstain, Problem, Rollout, Split, Task, Turn
from truegain.tasks import make_one
from truegain.tasks._answers import final_answer, number, same
from truegain.tasks.files import FileTask
from truegain.tasks.mixture import Mixture, parse

GSM8K = [
    {"question": f"Ann has {i} pens and buys 2. How many?", "answer": f"{i}+2=<<{i}+2={i + 2}>>{i + 2}.\n#### {i + 2}"}
    for i in range(60)
]


def write(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def rollout(problem: Problem, text: str) -> Rollout:
    return Rollout(problem, (1,), (2,), (0.0,), text, "eos", (Turn("policy", 0, 1),))


def problems(task: Task, split: Split) -> list[Problem]:
    size = task.size(split)
    assert size is not None
    return [task.problem(split, i) for i in range(size)]


def only(task: FileTask) -> Problem:
    """The one problem of a file with one row, whichever split it fell into."""
    (found,) = [problem for split in SPLITS for problem in problems(task, split)]
    return found


def refused(tmp_path: Path, content: bytes | list[Any], name: str = "data.jsonl", **knobs: Any) -> str:
    path = tmp_path / name
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        write(path, content)
    with pytest.raises(DataError) as error:
        FileTask(path, **knobs)
    message = str(error.value)
    assert str(path) in message and "\n" not in message and len(message) < 600
    return message.replace(str(path), name)


def test_gsm8k_rows_become_problems_with_the_number_after_the_marks(tmp_path: Path) -> None:
    task = FileTask(write(tmp_path / "gsm.jsonl", GSM8K))
    assert isinstance(task, Task) and task.name == "gsm" and task.has_answers
    found = [problem for split in SPLITS for problem in problems(task, split)]
    assert Counter(p.prompt for p in found) == Counter(row["question"] for row in GSM8K)
    first = next(p for p in found if p.prompt == GSM8K[7]["question"])
    assert first.answer == "9"
    assert first.meta == {"task": "gsm", "answer": GSM8K[7]["answer"]}


@pytest.mark.parametrize(
    ("text", "correct", "answered"),
    [
        ("7+2=9\n#### 9", 1.0, 1.0),
        ("7+2=9\n#### 9<|im_end|>", 1.0, 1.0),
        ("so she has 9 pens.", 1.0, 1.0),
        ("so she has 9 pens, not 8", 0.0, 1.0),
        ("<answer>9.00</answer>", 1.0, 1.0),
        ("\\boxed{9}, from 7 and 2", 1.0, 1.0),
        ("<think>#### 9</think> 8", 0.0, 1.0),
        ("no idea", 0.0, 0.0),
        ("", 0.0, 0.0),
    ],
)
def test_completions_of_gsm8k_are_judged_by_their_final_number(
    tmp_path: Path, text: str, correct: float, answered: float
) -> None:
    task = FileTask(write(tmp_path / "gsm.jsonl", [GSM8K[7]]))
    assert task.score(only(task), rollout(only(task), text)) == {"correct": correct, "answered": answered}


def test_trl_columns_with_messages_and_solution_are_read(tmp_path: Path) -> None:
    chat = [{"role": "system", "content": "be brief"}, {"role": "user", "content": "half?"}]
    row = {"prompt": chat, "solution": "We halve: \\boxed{\\frac{1}{2}}", "level": 3, "tags": ["a"]}
    task = FileTask(write(tmp_path / "m.jsonl", [row]))
    problem = only(task)
    assert problem.prompt == tuple(chat)
    assert problem.answer == "\\frac{1}{2}"
    assert problem.meta == {"task": "m", "solution": row["solution"], "level": 3, "tags": ["a"]}
    assert task.score(problem, rollout(problem, "It is \\boxed{1/2}")) == {"correct": 1.0, "answered": 1.0}
    # the answers of this file are not all behind ####, so a stray last number does not count as an answer
    assert task.score(problem, rollout(problem, "of 3, 0.5")) == {"correct": 0.0, "answered": 1.0}


def test_answer_goes_before_solution_and_numbers_are_taken_as_they_are(tmp_path: Path) -> None:
    task = FileTask(write(tmp_path / "m.jsonl", [{"prompt": "x", "solution": "worked", "answer": 1000}]))
    assert only(task).answer == "1000"
    assert task.score(only(task), rollout(only(task), "1,000.0")) == {"correct": 1.0, "answered": 1.0}


def test_columns_can_be_named(tmp_path: Path) -> None:
    path = write(tmp_path / "m.jsonl", [{"problem": "x", "key": "y", "prompt": 3}])
    assert only(FileTask(path, prompt_column="problem", answer_column="key")).answer == "y"


def test_rows_are_dealt_out_by_a_hash_of_the_prompt_alone(tmp_path: Path) -> None:
    rows = [{"prompt": f"p {i}", "answer": str(i)} for i in range(2000)]
    task = FileTask(write(tmp_path / "a.jsonl", rows))
    # Binomial(2000, .1): mean 200, standard deviation 13.4; five of them either way
    assert 133 <= task.size("dev") <= 267 and 133 <= task.size("test") <= 267
    again = FileTask(write(tmp_path / "b.jsonl", [{**row, "answer": "0"} for row in reversed(rows)]))
    for split in SPLITS:
        assert {p.prompt for p in problems(task, split)} == {p.prompt for p in problems(again, split)}

    def bucket(prompt: str) -> int:  # written out: blake2b of the JSON of [[role, content]]
        digest = blake2b(json.dumps([["", prompt]]).encode(), digest_size=12).digest()
        return int.from_bytes(digest, "big") % 10

    assert {p.prompt for p in problems(task, "dev")} == {r["prompt"] for r in rows if bucket(r["prompt"]) == 8}
    assert {p.prompt for p in problems(task, "test")} == {r["prompt"] for r in rows if bucket(r["prompt"]) == 9}


def test_problems_stand_in_the_files_order_and_their_ids_are_unique_and_stable(tmp_path: Path) -> None:
    task = FileTask(write(tmp_path / "gsm.jsonl", GSM8K))
    prompts = [row["question"] for row in GSM8K]
    for split in SPLITS:
        places = [prompts.index(str(p.prompt)) for p in problems(task, split)]
        assert places == sorted(places)
    ids = [p.id for split in SPLITS for p in problems(task, split)]
    assert len(set(ids)) == len(ids) == 60
    assert ids == [p.id for s in SPLITS for p in problems(FileTask(tmp_path / "gsm.jsonl"), s)]


def test_repeated_prompts_never_straddle_splits_and_repeated_rows_count_once(tmp_path: Path) -> None:
    rows = [{"prompt": f"p {i % 40}", "answer": str(i % 40)} for i in range(120)]
    rows += [{"prompt": f"p   {i}\n", "answer": "other"} for i in range(40)]
    task = FileTask(write(tmp_path / "a.jsonl", rows))
    owners: dict[str, set[str]] = {}
    for split in SPLITS:
        for problem in problems(task, split):
            owners.setdefault(" ".join(str(problem.prompt).split()), set()).add(split)
    assert len(owners) == 40 and all(len(splits) == 1 for splits in owners.values())
    ids = [p.id for split in SPLITS for p in problems(task, split)]
    assert len(set(ids)) == len(ids) == 80  # each prompt with its two different answers
    assert task.notes == ("80 rows repeat the prompt and answer of another: kept once",)


def test_separate_files_are_the_splits_and_leaks_are_left_out_of_the_earlier_one(tmp_path: Path) -> None:
    def rows(*numbers: int) -> list[Any]:
        return [{"prompt": f"p{i}", "answer": str(i)} for i in numbers]

    train = write(tmp_path / "train.jsonl", rows(*range(30)))
    dev = write(tmp_path / "dev.jsonl", rows(28, 29, 30, 31))
    test = write(tmp_path / "test.jsonl", rows(0, 1, 30, 40))
    task = FileTask(train=train, dev=dev, test=test, name="mine")
    assert [p.answer for p in problems(task, "test")] == ["0", "1", "30", "40"]
    assert [p.answer for p in problems(task, "dev")] == ["28", "29", "31"]
    assert [p.answer for p in problems(task, "train")] == [str(i) for i in range(2, 28)]
    assert set(task.notes) == {
        "1 dev prompts are also in test: left out of dev",
        "2 train prompts are also in test: left out of train",
        "2 train prompts are also in dev: left out of train",
    }
    assert task.problem("test", 0).id.startswith("mine-")


def test_a_missing_dev_split_is_dealt_out_of_the_train_file(tmp_path: Path) -> None:
    train = write(tmp_path / "train.jsonl", GSM8K)
    alone = FileTask(train)
    task = FileTask(train, test=write(tmp_path / "test.jsonl", [{"question": "new", "answer": "#### 1"}]))
    assert task.size("test") == 1
    assert problems(task, "dev") == problems(alone, "dev")
    assert task.size("train") == alone.size("train") + alone.size("test")


def test_an_empty_split_says_so_and_an_index_past_the_end_is_an_index_error(tmp_path: Path) -> None:
    task = FileTask(write(tmp_path / "one.jsonl", [{"prompt": "x", "answer": "y"}]))
    (full,) = [split for split in SPLITS if task.size(split)]
    with pytest.raises(IndexError, match="has 1 problems, no index 1"):
        task.problem(full, 1)
    with pytest.raises(IndexError):
        task.problem(full, -1)
    empty: Split = "dev" if full != "dev" else "test"
    with pytest.raises(DataError, match=f"no row of the 1 falls into the {empty} split; add rows or name a file"):
        task.problem(empty, 0)
    with pytest.raises(SettingError, match="did you mean 'train'"):
        task.size("trian")  # pyright: ignore[reportArgumentType]


def test_a_file_without_answers_is_for_reward_functions_only(tmp_path: Path) -> None:
    rows = [{"prompt": "x", "topic": "t"}]
    assert refused(tmp_path, rows) == (
        "data.jsonl, line 1: no column 'answer' or 'solution'; the columns are prompt, topic; "
        "rename one, set answer_column=, or judge by a reward function"
    )
    task = FileTask(write(tmp_path / "d.jsonl", rows), needs_answer=False)
    assert not task.has_answers and only(task).answer is None
    assert task.score(only(task), rollout(only(task), "anything")) == {"answered": 1.0}


def test_an_empty_answer_key_is_an_abstention(tmp_path: Path) -> None:
    task = FileTask(write(tmp_path / "d.jsonl", [{"prompt": "x", "answer": "#### "}]))
    assert task.score(only(task), rollout(only(task), "anything")) == Abstain("the answer key is empty")


COMPLETED = [
    {"prompt": "1+1", "answer": "2", "completion": "one and one: 2"},
    {"prompt": "1+1", "answer": "2", "completion": [{"role": "assistant", "content": "two, so 2"}]},
    *({"prompt": f"{i}+1", "answer": str(i + 1), "completion": f"it is {i + 1}"} for i in range(2, 30)),
]


def test_a_completion_column_gives_demonstrations_and_all_those_of_a_prompt_are_drawn(tmp_path: Path) -> None:
    task = FileTask(write(tmp_path / "data.jsonl", COMPLETED))
    drawn = {p.prompt: {task.demonstration(p, Random(seed)) for seed in range(20)} for p in problems(task, "train")}
    assert drawn.pop("1+1") == {"one and one: 2", "two, so 2"}
    assert drawn == {f"{i}+1": {f"it is {i + 1}"} for i in range(2, 30) if f"{i}+1" in drawn} != {}


def test_another_column_is_the_completion_when_it_is_named(tmp_path: Path) -> None:
    task = FileTask(write(tmp_path / "gsm.jsonl", GSM8K), completion_column="answer")
    problem = task.problem("train", 0)
    assert task.demonstration(problem, Random(0)) == problem.meta["answer"]
    assert "####" in problem.meta["answer"] and problem.answer == problem.meta["answer"].split("#### ")[1]


def test_only_the_train_file_needs_the_named_column(tmp_path: Path) -> None:
    test = write(tmp_path / "test.jsonl", [{"prompt": "0+0", "answer": "0"}])
    task = FileTask(write(tmp_path / "data.jsonl", COMPLETED), test=test, completion_column="completion")
    assert task.size("test") == 1 and hasattr(task, "demonstration")


def test_a_file_with_a_row_without_completion_has_no_demonstrations(tmp_path: Path) -> None:
    rows = [{**row, "completion": None} if i == 9 else row for i, row in enumerate(COMPLETED)]
    dealt = FileTask(write(tmp_path / "gap.jsonl", rows), dev=write(tmp_path / "dev.jsonl", [GSM8K[0]]))
    assert hasattr(dealt, "demonstration") == all(p.prompt != "9+1" for p in problems(dealt, "train"))
    assert not hasattr(FileTask(write(tmp_path / "plain.jsonl", GSM8K)), "demonstration")
    assert not hasattr(parse(f"sort+{tmp_path}/plain.jsonl"), "demonstration")


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (None, "line 2: 'reply' holds no completion; it must be text that is not empty, or one message"),
        (" ", "line 2: 'reply' holds no completion"),
        (7, "line 2: 'reply' holds no completion"),
        ([{"role": "a", "content": "x"}] * 2, "line 2: 'reply' holds no completion"),
    ],
)
def test_a_named_completion_column_must_be_filled_in_every_row(tmp_path: Path, value: Any, message: str) -> None:
    rows = [{"prompt": "a", "answer": "1", "reply": "x"}, {"prompt": "b", "answer": "1", "reply": value}]
    assert message in refused(tmp_path, rows, completion_column="reply")
    assert "no column 'repli' (did you mean 'reply'?)" in refused(tmp_path, rows, completion_column="repli")


def test_a_problem_says_from_which_line_it_is(tmp_path: Path) -> None:
    file = write(tmp_path / "data.jsonl", [*GSM8K, {**GSM8K[4], "answer": "another"}])
    task = FileTask(file)
    found = {task.place(p): p.meta["answer"] for split in SPLITS for p in problems(task, split)}
    assert found == {f"{file}, line {i + 1}": row["answer"] for i, row in enumerate([*GSM8K, {"answer": "another"}])}


def test_json_and_parquet_hold_the_same_problems_as_json_lines(tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    import pyarrow

    rows: list[dict[str, Any]] = [{"prompt": f"p{i} é", "answer": f"{i}", "level": i} for i in range(40)]
    write(tmp_path / "a.jsonl", rows)
    (tmp_path / "a.json").write_text(json.dumps(rows, indent=1), encoding="utf-8")
    (tmp_path / "b").mkdir()
    write(tmp_path / "b" / "a.json", rows)
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "a.parquet")
    files = ["a.jsonl", "a.json", "b/a.json", "a.parquet"]
    first, *others = [[problems(FileTask(tmp_path / name), split) for split in SPLITS] for name in files]
    assert sum(map(len, first)) == 40
    assert all(other == first for other in others)


def test_parquet_with_messages_and_dates_is_read(tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    import datetime

    import pyarrow

    row = {"prompt": [{"role": "user", "content": "x"}], "answer": 4, "when": datetime.date(2024, 5, 1)}
    parquet.write_table(pyarrow.Table.from_pylist([row]), tmp_path / "a.parquet")
    problem = only(FileTask(tmp_path / "a.parquet"))
    assert problem.prompt == ({"role": "user", "content": "x"},)
    assert problem.answer == "4" and problem.meta["when"] == "2024-05-01"


def test_a_byte_order_mark_windows_line_ends_and_blank_lines_do_no_harm(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"prompt": "a", "answer": "1"}\r\n\r\n  \n{"prompt": "b", "answer": "2"}')
    task = FileTask(path)
    assert sum(task.size(split) for split in SPLITS) == 2


GOOD = b'{"prompt": "a", "answer": "1"}\n'


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "data.jsonl: the file is empty; it needs one row per problem"),
        (b"\n\n", "data.jsonl: no rows; it needs one row per problem"),
        (GOOD + b'{"prompt": "b", "answer": }\n', "data.jsonl, line 2: bad JSON (Expecting value at column 27)"),
        (GOOD + b"\n" + b'{"prompt": "b"', "data.jsonl, line 3: bad JSON (Expecting ',' delimiter at column 15)"),
        (GOOD + b"[1]\n", "data.jsonl, line 2: a list, not an object with columns"),
        (b"[" * 100_000, "data.jsonl, line 1: bad JSON"),
        (b'{"prompt": "a", "answer": ' + b"9" * 5000 + b"}", "data.jsonl, line 1: bad JSON (Exceeds the limit"),
        (
            GOOD + b'{"prompt": "\xe9t\xe9", "answer": "1"}\n',
            "data.jsonl, line 2: not UTF-8 (byte 0xe9 at offset 43); save the file as UTF-8",
        ),
        ('{"prompt": "a"}'.encode("utf-16"), "data.jsonl, line 1: not UTF-8 (byte 0xff at offset 0)"),
        (
            b'{"promt": "a", "answer": "1"}\n',
            "data.jsonl, line 1: no column 'prompt' or 'question' (did you mean 'promt'?); the columns are promt,",
        ),
        (GOOD + b'{"text": "a"}\n', "data.jsonl, line 2: no column 'prompt'; the columns are text"),
        (GOOD + b'{"prompt": "b"}\n', "data.jsonl, line 2: no column 'answer'; the columns are prompt"),
        (GOOD + b'{"prompt": "b", "answer": null}\n', "data.jsonl, line 2: 'answer' is null; it must be"),
        (GOOD + b'{"prompt": "b", "answer": ["1"]}\n', "data.jsonl, line 2: 'answer' is a list; it must be"),
        (GOOD + b'{"prompt": 5, "answer": "1"}\n', "data.jsonl, line 2: 'prompt' is a int; it must be a string or"),
        (GOOD + b'{"prompt": null, "answer": "1"}\n', "data.jsonl, line 2: 'prompt' is null; it must be a string or"),
        (GOOD + b'{"prompt": [], "answer": "1"}\n', "data.jsonl, line 2: 'prompt' is a list; it must be a string or"),
        (
            GOOD + b'{"prompt": [{"role": "user", "content": [1]}], "answer": "1"}\n',
            "data.jsonl, line 2: 'prompt' is a list; it must be a string or a list of {role, content} messages",
        ),
        (GOOD + b'{"prompt": " ", "answer": "1"}\n', "data.jsonl, line 2: 'prompt' is empty; remove the row"),
        (GOOD + b'{"prompt": "\\ud800", "answer": "1"}\n', "data.jsonl, line 2: the prompt holds half a surrogate"),
        (
            GOOD + b'{"prompt": "' + b"x" * 10**6 + b'", "answer": "1"}\n',
            "data.jsonl, line 2: 'prompt' has 1000000 characters, more than max_prompt_chars=100000; shorten",
        ),
    ],
)
def test_a_bad_line_is_one_error_with_file_line_and_mend(tmp_path: Path, content: bytes, message: str) -> None:
    assert refused(tmp_path, content).startswith(message)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'[{"prompt": "a", "answer": "1"},\n {"prompt": }]', "data.json, line 2: bad JSON (Expecting value"),
        (b'[{"prompt": "a", "answer": "1"},\n 7]', "data.json, row 2: a int, not an object"),
        (
            b'[{"prompt": "a", "answer": "1"},\n {"prompt": "\xff"}]',
            "data.json, line 2: not UTF-8 (byte 0xff at offset",
        ),
        (b'"text"', "data.json: a str, not a list of objects"),
        (b"[]", "data.json: no rows"),
        (b"[" * 100_000, "data.json: bad JSON"),
    ],
)
def test_a_bad_json_file_is_one_error_with_its_place(tmp_path: Path, content: bytes, message: str) -> None:
    assert refused(tmp_path, content, "data.json").startswith(message)


def test_a_damaged_parquet_file_is_one_error(tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    import pyarrow

    assert refused(tmp_path, b"PAR1 not really", "data.parquet").startswith("data.parquet: not a readable parquet file")
    parquet.write_table(pyarrow.table({"prompt": ["a"] * 999, "answer": ["1"] * 999}), tmp_path / "whole.parquet")
    whole = (tmp_path / "whole.parquet").read_bytes()
    assert refused(tmp_path, whole[: len(whole) // 2], "data.parquet").startswith("data.parquet: not a readable")


def test_a_file_that_is_not_there_a_folder_and_an_unknown_kind_are_refused(tmp_path: Path) -> None:
    write(tmp_path / "train.jsonl", GSM8K)
    with pytest.raises(DataError, match=r"trian.jsonl: no such file \(did you mean 'train.jsonl'\?\)"):
        FileTask(tmp_path / "trian.jsonl")
    with pytest.raises(DataError, match=r"is a folder, not a data file; name a file in it: train.jsonl"):
        FileTask(tmp_path)
    with pytest.raises(DataError, match=r"unknown kind of file '.csv'; data files end in .jsonl, .json, .parquet"):
        FileTask(tmp_path / "train.csv")
    with pytest.raises(DataError, match=r"test.jsonl: no such file"):
        FileTask(tmp_path / "train.jsonl", test=tmp_path / "elsewhere" / "test.jsonl")


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_file_without_permission_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", GSM8K)
    path.chmod(0)
    with pytest.raises(DataError, match="cannot be read"):
        FileTask(path)


def test_knobs_that_make_no_sense_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", GSM8K)
    with pytest.raises(SettingError, match="unknown checker 'exakt'"):
        FileTask(path, checker="exakt")  # pyright: ignore[reportArgumentType]
    with pytest.raises(SettingError, match="give path or train, not both"):
        FileTask(path, train=path)
    with pytest.raises(SettingError, match="give path or train"):
        FileTask()
    with pytest.raises(DataError, match=r"no column 'anwser' \(did you mean 'answer'\?\)"):
        FileTask(path, answer_column="anwser")


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("<answer>1</answer> <answer>2</answer>", "2"),
        ("<answer>1</answer> \\boxed{2} #### 3", "1"),
        ("\\boxed{2} #### 3", "2"),
        ("\\boxed{\\frac{1}{\\sqrt{2}}} done", "\\frac{1}{\\sqrt{2}}"),
        ("#### 3\nmore", "3"),
        ("<answer>open", "<answer>open"),
        ("\\boxed{open", "\\boxed{open"),
        (" whole text ", "whole text"),
        ("<think>\\boxed{1}</think> two", "two"),
        ("<answer></answer>", None),
        ("x" * 3000, None),
    ],
)
def test_the_final_answer_is_the_marked_one_else_the_whole_text(text: str, answer: str | None) -> None:
    assert final_answer(text) == answer


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("3 apples, $1,234.50 in all", "$1,234.50"),
        ("from 5 to -3.", "-3"),
        ("5-3", "-3"),
        ("no number", None),
        ("version 1.2.3", ".3"),
        ("1,2,3", "3"),
    ],
)
def test_the_last_number_is_taken_where_the_task_is_numeric(text: str, answer: str | None) -> None:
    assert final_answer(text, last_number=True) == answer


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ("1,000", "1000"),
        ("1000.0", "1,000"),
        ("$18", "18"),
        ("\\$18.00", "18"),
        ("50%", "50"),
        ("50\\%", "50"),
        ("1/2", "0.5"),
        ("\\frac{1}{2}", ".5"),
        ("-\\dfrac{3}{4}", "-0.75"),
        ("\u22125", "-5"),
        ("1e3", "1000"),
        ("+7.", "7"),
        ("$x^2$", "x^2"),
        ("\\(y\\)", "y"),
        ("New  York\n", "new york."),
        ("\\text{blue}", "Blue"),
        ("007", "7"),
    ],
)
def test_equal_answers_in_other_clothes_are_the_same(left: str, right: str) -> None:
    assert same(left, right) and same(right, left)


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ("1,00", "100"),
        ("1,0000", "10000"),
        ("0.1", "0.10000000000000001"),
        ("1e-3", "0.0011"),
        ("1/0", "1/0.0"),
        ("50%", "0.5"),
        ("1 000", "1000"),
        ("12", "12 apples"),
        ("\u0664", "4"),
        ("nan", "0"),
        ("1_000", "1000"),
        ("", "0"),
        ("a b", "ab"),
    ],
)
def test_different_answers_are_not_the_same(left: str, right: str) -> None:
    assert not same(left, right) and not same(right, left)


@given(st.integers(-(10**15), 10**15), st.integers(0, 6))
def test_a_number_is_read_exactly_in_every_way_of_writing_it(units: int, places: int) -> None:
    value = Fraction(units, 10**places)
    whole, rest = divmod(abs(units), 10**places)
    sign = "-" if units < 0 else ""
    digits = f".{rest:0{places}d}" if places else ""
    for text in (f"{sign}{whole}{digits}", f"{sign}{whole:,}{digits}", f"{units}e-{places}", f"{units}/{10**places}"):
        assert number(text) == value


@given(st.text(alphabet="0123456789,.+-/$%eE{}\\ frac#<answer>\n", max_size=60))
def test_no_text_breaks_the_checker(text: str) -> None:
    for last in (False, True):
        found = final_answer(text, last_number=last)
        assert found is None or same(found, found)


@pytest.mark.parametrize("piece", ["9", "<answer>", "</answer>", "\\boxed{", "{", "1,", "#### ", "$", "-", " ", "9,9"])
def test_reading_takes_linear_time_in_hostile_text(piece: str) -> None:
    text = piece * (400_000 // len(piece))  # quadratic work would take hours, not the test's seconds
    for last in (False, True):
        final_answer(text, last_number=last)
    same(text, "9")


def test_huge_exponents_are_no_plain_numbers() -> None:
    assert number("1e999999999") is None and not same("1e999999999", "1e999999998")
    assert number("9" * 101) is None


# ---------------------------------------------------------------------------------------------------------- mixtures


def test_a_mixtures_problems_are_a_pure_function_of_the_index() -> None:
    mixture = parse("sort,weight=2+add,level=3")
    assert isinstance(mixture, Mixture) and isinstance(mixture, Task)
    forwards = [mixture.problem("train", i) for i in range(50)]
    again = parse("sort,weight=2+add,level=3")
    assert [again.problem("train", i) for i in reversed(range(50))] == forwards[::-1]
    sort, add = make_one("sort"), make_one("add,level=3")
    for i, problem in enumerate(forwards):
        source = (sort, add)[problem.meta["member"]].problem("train", i)
        assert (problem.id, problem.prompt, problem.answer) == (source.id, source.prompt, source.answer)
    other = parse("sort,weight=2+add,level=3", seed=1)
    assert [p.meta["member"] for p in forwards] != [other.problem("train", i).meta["member"] for i in range(50)]


def test_members_come_up_as_often_as_their_weights_say() -> None:
    mixture = Mixture([make_one(name) for name in ("sort", "add", "chain")], [1, 5, 4])
    assert mixture.weights == (0.1, 0.5, 0.4)
    counts = Counter(mixture.drawn("train", i) for i in range(20_000))
    for which, share in enumerate(mixture.weights):
        # five standard deviations of a binomial share
        assert abs(counts[which] / 20_000 - share) < 5 * math.sqrt(share * (1 - share) / 20_000)
    assert [mixture.drawn("train", i) for i in range(100)] != [mixture.drawn("dev", i) for i in range(100)]


def test_a_finite_member_gives_its_problems_in_turn_and_again(tmp_path: Path) -> None:
    path = write(tmp_path / "gsm.jsonl", GSM8K)
    task, mixture = FileTask(path), parse(f"{path},weight=3+sort")
    size = task.size("test")
    seen = [mixture.problem("test", i) for i in range(40 * size)]
    for i, problem in enumerate(seen):
        if problem.meta["member"] == 0:
            assert problem.id == task.problem("test", i % size).id
    assert {p.id for p in seen if p.meta["member"] == 0} == {p.id for p in problems(task, "test")}
    assert mixture.size("test") is None
    with pytest.raises(IndexError):
        mixture.problem("test", -1)


def test_each_problem_is_scored_by_the_task_it_is_from(tmp_path: Path) -> None:
    path = write(tmp_path / "gsm.jsonl", GSM8K)
    mixture = parse(f"{path}+sort,level=3")
    seen = {problem.meta["member"]: problem for problem in (mixture.problem("train", i) for i in range(40))}
    for which in (0, 1):
        problem = seen[which]
        right, wrong = f"<answer>{problem.answer}</answer>", "<answer>zzz</answer>"
        assert mixture.final(problem, right) == problem.answer
        for text, correct in ((right, 1.0), (wrong, 0.0)):
            facts = mixture.score(problem, rollout(problem, text))
            assert facts == mixture.members[which].score(problem, rollout(problem, text))
            assert not isinstance(facts, Abstain) and facts["correct"] == correct
    stranger = Problem("x", "y", "z")
    assert mixture.score(stranger, rollout(stranger, "z")) == Abstain("problem x: of no task of gsm+sort")
    assert mixture.final(stranger, "z") is None


def test_members_of_one_name_have_ids_of_their_own_and_splits_stay_disjoint() -> None:
    mixture = parse("sort,level=3+sort,level=3,style=trace+add")
    by_split = {split: {mixture.problem(split, i).id for i in range(300)} for split in SPLITS}
    assert any(ident.startswith("sort#2/sort-") for ident in by_split["dev"])
    assert not by_split["train"] & by_split["dev"] and not by_split["train"] & by_split["test"]
    assert not by_split["dev"] & by_split["test"]


def test_a_mixture_in_a_mixture_is_taken_apart_with_its_weights() -> None:
    inner = parse("sort,weight=3+add")
    mixture = Mixture([inner, make_one("chain")], [1, 1])
    assert [task.name for task in mixture.members] == ["sort", "add", "chain"]
    assert mixture.weights == (0.375, 0.125, 0.5)
    assert mixture.name == "sort+add+chain" and "</answer>" in mixture.stop


def test_a_mixture_with_a_tool_serves_each_problem_its_own_world() -> None:
    mixture = parse("calculator+sort")
    factory = mixture.environment()
    assert factory is not None and parse("sort+add").environment() is None
    world = factory()
    seen = {problem.meta["member"]: problem for problem in (mixture.problem("train", i) for i in range(40))}
    assert mixture.respond(world, "<tool>1+1</tool>") is None  # nothing begun yet
    world.reset(**seen[0].meta)
    assert mixture.respond(world, "<tool>12*7</tool>") == "<result>84</result>"
    assert getattr(world, "calculate")("2+2") == "4"  # noqa: B009
    state = json.loads(json.dumps(world.snapshot()))
    fork = factory()
    fork.restore(state)
    assert fork.snapshot() == state and len(state["state"]["calls"]) == 2
    world.reset(**seen[1].meta)
    assert mixture.respond(world, "<tool>12*7</tool>") is None
    assert world.snapshot() == {"member": 1, "state": None}
    assert not hasattr(world, "calculate")
    fork.restore(world.snapshot())
    assert fork.snapshot() == {"member": 1, "state": None}


def test_demonstrations_and_token_needs_are_there_when_every_member_has_them(tmp_path: Path) -> None:
    from random import Random

    mixture = parse("sort,level=3+add,level=2,style=trace")
    for i in range(20):
        problem = mixture.problem("train", i)
        text = mixture.demonstration(problem, Random(0))  # pyright: ignore[reportAttributeAccessIssue]
        facts = mixture.score(problem, rollout(problem, text))
        assert not isinstance(facts, Abstain) and facts["correct"] == 1.0
    needs = [make_one("sort,level=3").max_tokens, make_one("add,level=2,style=trace").max_tokens]
    assert getattr(mixture, "max_tokens", None) == max(needs)
    filed = parse(f"{write(tmp_path / 'a.jsonl', GSM8K)}+sort")
    assert not hasattr(filed, "demonstration") and getattr(filed, "max_tokens", None) is None


def test_one_task_is_no_mixture_and_weights_alone_change_nothing() -> None:
    assert parse("sort,level=6,style=trace") == make_one("sort,level=6,style=trace")
    assert parse("sort,weight=9") == make_one("sort")


def test_a_files_keys_reach_the_file_task(tmp_path: Path) -> None:
    path = write(tmp_path / "odd+file+name.jsonl", [{"q": f"q{i}", "a": "1"} for i in range(9)])
    test = write(tmp_path / "test.jsonl", [{"q": "t", "a": "2"}])
    spec = f"{path},checker=exact,prompt_column=q,answer_column=a,test={test},name=mine,max_prompt_chars=5"
    task = parse(spec)
    assert task.name == "mine" and task.size("test") == 1
    mixed = parse(f"sort+{spec},weight=2")
    assert isinstance(mixed, Mixture) and mixed.members[1].name == "mine"
    bare = write(tmp_path / "bare.jsonl", [{"prompt": "x"}])
    assert parse(str(bare), needs_answer=False).name == "bare"


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("srot", r"unknown task 'srot' \(did you mean 'sort'\?\); there are sort .* and files that end in .jsonl"),
        ("sort,levle=3", r"unknown key 'levle' \(did you mean 'level'\?\)"),
        ("sort,level", "'level' is no setting; write key=value"),
        ("sort,weight=0", "weight cannot be '0'; it is a positive number"),
        ("sort,weight=nan", "weight cannot be 'nan'"),
        ("sort,weight=-1+add", "weight cannot be '-1'"),
        ("sort++add", "a part is empty"),
        ("", "a part is empty"),
        ("{path},chekcer=exact", r"unknown key 'chekcer' \(did you mean 'checker'\?\)"),
        ("{path},max_prompt_chars=lots", "max_prompt_chars cannot be 'lots'; it is a whole number"),
        ("{path},checker=fuzzy", "unknown checker 'fuzzy'"),
    ],
)
def test_a_wrong_spec_is_one_line_with_the_nearest_name(tmp_path: Path, spec: str, message: str) -> None:
    path = write(tmp_path / "a.jsonl", GSM8K)
    with pytest.raises(SettingError, match=message) as error:
        parse(spec.format(path=path))
    assert "\n" not in str(error.value)


def test_a_path_to_nothing_is_a_data_error_and_not_an_unknown_task(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        parse(f"{tmp_path}/none.jsonl")
    with pytest.raises(DataError, match="unknown kind of file"):
        parse("data/none.csv")


@pytest.mark.parametrize("weights", [[1.0], [1.0, 0.0], [1.0, math.inf], [1.0, math.nan], []])
def test_weights_that_do_not_fit_are_refused(weights: list[float]) -> None:
    with pytest.raises(SettingError, match="weight"):
        Mixture([make_one("sort"), make_one("add")], weights)
