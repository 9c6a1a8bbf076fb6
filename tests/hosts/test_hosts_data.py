"""Problems go out to TRL, verl and verifiers and come in again, equal; files are whole or not there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from truegain.core.errors import DataError, SettingError
from truegain.core.types import SPLITS, Problem
from truegain.hosts import data, package
from truegain.hosts.data import (
    RECORD,
    from_record,
    from_trl,
    from_verl_parquet,
    in_english,
    problem_of,
    problems_of,
    record_of,
    to_trl,
    to_verl_parquet,
    trl_rows,
    verl_rows,
    write,
)
from truegain.hosts.package import write_package

LETTERS = "a Z09{}[]\"\\'\n\t\0,:#é漢🙂\u2028\u202e\ufeff"
TEXT = st.text(LETTERS, min_size=1, max_size=12)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(LETTERS, max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(LETTERS, max_size=5), inner, max_size=3),
    max_leaves=4,
)
NAMES = st.sampled_from(["answer", "solution", "level", "prompt", "completions", "ünü süäl", "a.b", "", "data_source"])
MESSAGES = st.lists(
    st.fixed_dictionaries({"role": st.sampled_from(["system", "user"]), "content": TEXT}), min_size=1, max_size=3
)


def parts(prompt: Any) -> Any:
    """Prompts with any answer and any columns."""
    return st.lists(
        st.tuples(prompt, st.none() | TEXT, st.dictionaries(NAMES, JSON, max_size=4)), min_size=1, max_size=3
    )


SOME = parts(TEXT) | parts(MESSAGES.map(tuple))


def made(rows: list[Any]) -> list[Problem]:
    """Problems of the parts; not made within a strategy, as the checks of their types draw random numbers."""
    return [Problem(f"é-{number}", *row) for number, row in enumerate(rows)]


@given(SOME, st.sampled_from(SPLITS))
def test_a_problem_goes_to_trl_and_back_as_it_was(rows: list[Any], split: Any) -> None:
    given_ = made(rows)
    assert from_trl(trl_rows(given_, split).rows) == {split: given_}


@given(SOME, st.sampled_from(SPLITS))
def test_a_problem_goes_to_verl_and_back_as_it_was(rows: list[Any], split: Any) -> None:
    given_ = made(rows)
    assert from_verl_parquet(verl_rows(given_, split).rows) == {split: given_}


@settings(max_examples=20)
@given(SOME)
def test_both_formats_survive_parquet_and_trl_survives_json_lines(tmp_path_factory: Any, rows: list[Any]) -> None:
    given_ = made(rows)
    folder = tmp_path_factory.mktemp("files")
    for converted, back in ((trl_rows(given_).rows, from_trl), (verl_rows(given_).rows, from_verl_parquet)):
        for suffix in (".parquet", ".jsonl"):
            assert back(write(converted, folder / f"data{suffix}")) == {"train": given_}


@settings(max_examples=20)
@given(SOME)
def test_datasets_holds_trls_rows(rows: list[Any]) -> None:
    given_ = made(rows)
    datasets = pytest.importorskip("datasets")
    assert from_trl(datasets.Dataset.from_list(trl_rows(given_).rows)) == {"train": given_}


def test_trls_columns_are_the_ones_its_rewards_read() -> None:
    made = to_trl("sort,level=4", "dev", 3)
    assert made.column_names == ["prompt", "answer", "solution", "content", "level", "style", "task", RECORD]
    first = made[0]
    assert first["prompt"] == f"sort {first['content']}\n"
    assert first["answer"] == first["solution"] == " ".join(sorted(first["content"].split()))
    assert first["level"] == 4


def test_verls_columns_are_the_ones_its_trainer_reads(tmp_path: Path) -> None:
    pq = pytest.importorskip("pyarrow.parquet")
    rows = pq.read_table(to_verl_parquet("sort,level=4", tmp_path / "dev.parquet", "dev", 2)).to_pylist()
    assert sorted(rows[0]) == ["ability", "data_source", "extra_info", "prompt", "reward_model"]
    assert rows[0]["data_source"] == "truegain/sort"
    assert rows[0]["prompt"][0]["role"] == "user"
    assert rows[0]["reward_model"]["style"] == "rule"
    assert rows[0]["prompt"][0]["content"].startswith("Sort these digits in ascending order")
    assert rows[0]["reward_model"]["ground_truth"] == problems_of("sort,level=4", "dev", 2)[0].answer
    assert [row["extra_info"]["index"] for row in rows] == [0, 1]
    assert {row["extra_info"]["split"] for row in rows} == {"dev"}


def test_a_column_that_arrow_cannot_hold_stands_in_the_record_only() -> None:
    given_ = [Problem("a", "x", "1", {"mixed": 1, "nested": {"k": 1}, "level": 2, "big": 2**70, "answer": 3})]
    given_.append(Problem("b", "y", "2", {"mixed": "1", "nested": {"k": 2}, "level": 3, "big": 1, "answer": 4}))
    made = trl_rows(given_)
    assert made.held == ("big", "mixed", "nested")
    assert [(row["level"], row["answer"], row["solution"]) for row in made.rows] == [(2, 3, "1"), (3, 4, "2")]
    assert from_trl(made.rows)["train"] == given_


def test_text_and_messages_do_not_mix_in_one_data_set() -> None:
    with pytest.raises(DataError, match="some prompts are text and some messages"):
        trl_rows([Problem("a", "x"), Problem("b", ({"role": "user", "content": "y"},))])


def test_half_a_character_is_refused_by_the_problems_name() -> None:
    for convert in (trl_rows, verl_rows):
        with pytest.raises(DataError, match="problem p: it holds half a surrogate pair"):
            convert([Problem("p", "\ud800")])


def test_half_a_character_in_a_further_column_stays_in_the_record() -> None:
    given_ = [Problem("p", "x", "1", {"note": "\ud800"})]
    made = trl_rows(given_)
    assert made.held == ("note",)
    assert from_trl(made.rows)["train"] == given_


def test_rows_made_elsewhere_are_read_by_the_hosts_columns() -> None:
    (problem,) = from_trl([{"question": "2+2?", "answer": "it is\n#### 4", "source": "x"}])["train"]
    assert (problem.prompt, problem.answer) == ("2+2?", "4")
    assert problem.meta == {"question": "2+2?", "answer": "it is\n#### 4", "source": "x"}
    row = {
        "data_source": "gsm8k",
        "prompt": [{"role": "user", "content": "2+2?"}],
        "ability": "math",
        "reward_model": {"style": "rule", "ground_truth": "4"},
        "extra_info": {"split": "test", "index": 7},
    }
    (problem,) = from_verl_parquet([row])["test"]
    assert problem.answer == "4"
    assert problem.prompt == ({"role": "user", "content": "2+2?"},)
    assert problem.meta["data_source"] == "gsm8k"
    assert problem.meta["extra_info"] == {"split": "test", "index": 7}


@pytest.mark.parametrize("truth", [["4", "four"], {"tests": [1]}, 4, True])
def test_a_ground_truth_of_another_kind_becomes_its_json(truth: Any) -> None:
    row = {"prompt": [{"role": "user", "content": "x"}], "reward_model": {"ground_truth": truth}}
    (problem,) = from_verl_parquet([row])["train"]
    assert json.loads(str(problem.answer)) == truth


@pytest.mark.parametrize("row", [{}, {"prompt": None}, {"prompt": 3}, {"prompt": [{"role": "user"}]}, {"answer": "1"}])
def test_a_row_without_a_prompt_is_refused_by_its_place(row: dict[str, Any]) -> None:
    with pytest.raises(DataError, match="row 1: no 'prompt'"):
        from_trl([row])


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        "null",
        '"x"',
        "[" * 100_000,
        json.dumps({"id": 1, "split": "train", "prompt": "x", "answer": None, "meta": {}}),
        json.dumps({"id": "a", "split": "exam", "prompt": "x", "answer": None, "meta": {}}),
        json.dumps({"id": "a", "split": "train", "prompt": [], "answer": None, "meta": {}}),
        json.dumps({"id": "a", "split": "train", "prompt": "x", "answer": 3, "meta": {}}),
    ],
)
def test_a_damaged_record_is_refused_by_its_place(text: str) -> None:
    with pytest.raises(DataError, match=r"d\.jsonl, line 3: no problem that truegain wrote"):
        from_record(text, "d.jsonl, line 3")


def test_a_bad_line_of_a_file_is_named(tmp_path: Path) -> None:
    file = tmp_path / "bad.jsonl"
    file.write_text('{"prompt": "x"}\n{"prompt": \n')
    with pytest.raises(DataError, match=r"bad.jsonl, line 2: bad JSON"):
        from_trl(file)


def test_each_problem_is_given_once_and_a_small_task_ends() -> None:
    found = problems_of("sort,level=2", "train", 10_000)
    assert len({problem.id for problem in found}) == len(found)
    assert 30 < len(found) < 100


def test_splits_keep_apart_on_the_way() -> None:
    ids = {split: {p.id for p in problems_of("sort,level=6", split, 50)} for split in SPLITS}
    assert not ids["train"] & ids["dev"] | ids["train"] & ids["test"] | ids["dev"] & ids["test"]
    for split in SPLITS:
        assert set(from_trl(trl_rows(problems_of("sort,level=6", split, 3), split).rows)) == {split}


def test_a_task_that_never_ends_needs_a_count() -> None:
    with pytest.raises(SettingError, match="the task sort has no last problem: say how many"):
        problems_of("sort")
    with pytest.raises(SettingError, match="unknown split 'exam'"):
        problems_of("sort", "exam", 3)  # type: ignore[arg-type]


def test_converting_what_was_converted_holds_no_record_within_a_record(tmp_path: Path) -> None:
    file = write(trl_rows(problems_of("sort,level=3", "train", 20)).rows, tmp_path / "once.jsonl")
    again = problems_of(str(file), "train")
    assert again
    assert all(RECORD not in problem.meta and RECORD not in json.loads(record_of(problem))["meta"] for problem in again)


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write([{"prompt": "old"}], tmp_path / "data.jsonl")
    with pytest.raises(TypeError):
        write([{"prompt": "new"}, {"prompt": object()}], file)
    assert json.loads(file.read_text()) == {"prompt": "old"}
    monkeypatch.setattr(data.os, "replace", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(DataError, match=r"data.jsonl: cannot be written \(No space left on device\)"):
        write([{"prompt": "new"}], file)
    assert [path.name for path in tmp_path.iterdir()] == ["data.jsonl"]


def test_a_package_for_verifiers_is_whole_or_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = {"train": problems_of("sort,level=4,chat=true", "train", 3)}
    place = write_package(made, "sort,level=4", tmp_path / "my-sort")
    assert sorted(str(p.relative_to(place)) for p in place.rglob("*") if p.is_file()) == [
        "my_sort/__init__.py",
        "my_sort/train.jsonl",
        "pyproject.toml",
    ]
    (first, *_) = from_trl(place / "my_sort" / "train.jsonl")["train"]
    assert first.meta == {**made["train"][0].meta, "checked_by": "sort,level=4"}
    compile((place / "my_sort" / "__init__.py").read_text(), "taskset", "exec")
    with pytest.raises(SettingError, match="exists already"):
        write_package(made, "sort,level=4", place)
    monkeypatch.setattr(package.os, "rename", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(DataError, match="No space left"):
        write_package(made, "sort,level=4", tmp_path / "other")
    assert [path.name for path in tmp_path.iterdir()] == ["my-sort"]


@pytest.mark.parametrize("name", ["1 x", "_y", "x_", "-y", "x-", "2sort", "a.b", "Ärger", "class", "x\n"])
def test_a_package_has_a_name_that_a_project_and_a_module_may_have(tmp_path: Path, name: str) -> None:
    with pytest.raises(SettingError, match="its last part names the package"):
        write_package({"train": [Problem("p", "x", "1")]}, "exact", tmp_path / name)
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize("name", ["x", "My-Sort", "sort_2", "a--b"])
def test_a_name_by_both_rules_is_taken(tmp_path: Path, name: str) -> None:
    place = write_package({"train": [Problem("p", "x", "1")]}, "sort", tmp_path / name)
    assert (place / name.replace("-", "_").lower() / "__init__.py").is_file()


def test_a_spec_in_a_package_is_data_and_no_code(tmp_path: Path) -> None:
    file = tmp_path / 'a"""\nimport os\n.jsonl'
    file.write_text('{"prompt": "x", "answer": "1"}\n')
    place = write_package({"train": [Problem("p", "x", "1")]}, f"{file},checker=math", tmp_path / "odd")
    source = (place / "odd" / "__init__.py").read_text()
    assert "import os" not in source.splitlines()
    compile(source, "taskset", "exec")
    assert problem_of({RECORD: json.loads((place / "odd" / "train.jsonl").read_text())[RECORD]})[1].meta == {
        "checked_by": "math"
    }


def test_verls_score_function_judges_rows_that_were_converted() -> None:
    from truegain.hosts.verl_score import compute_score

    (problem,) = problems_of("sort,level=4", "train", 1)
    (row,) = verl_rows([problem]).rows
    for text, score in ((f"<answer>{problem.answer}</answer>", 1.0), ("<answer>x</answer>", 0.0)):
        given = row["data_source"], text, row["reward_model"]["ground_truth"], row["extra_info"]
        assert compute_score(*given, reward="sort", abstain=-1.0) == {"score": score, "truegain_abstained": 0.0}


def test_a_mixture_of_tasks_asks_in_plain_english_too() -> None:
    asked = problems_of(in_english("sort,level=4+add"), "train", 8)
    assert {str(problem.meta["task"]) for problem in asked} == {"sort", "add"}
    assert all(problem.prompt[0]["role"] == "user" for problem in asked)  # type: ignore[index]
    assert [p.answer for p in asked] == [p.answer for p in problems_of("sort,level=4+add", "train", 8)]
    assert isinstance(problems_of(in_english("sort,chat=false"), "train", 1)[0].prompt, str)
