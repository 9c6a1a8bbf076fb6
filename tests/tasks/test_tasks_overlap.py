"""Train/test overlap: the prompts that a slow comparison of word windows finds, and no template for a leak."""

from __future__ import annotations

import json
import random
import re
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from truegain.cli.check import check
from truegain.core.errors import SettingError
from truegain.tasks.files import FileTask
from truegain.tasks.mixture import parse
from truegain.tasks.overlap import Overlap, Shared, contamination, overlap, overlap_notes

LONG = "a train leaves at noon and drives for three hours at sixty miles an hour how far does it go"  # 19 words


def write(path: Path, prompts: list[str]) -> Path:
    rows = [{"prompt": prompt, "answer": "1"} for prompt in prompts]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def slow(train: list[str], test: list[str], n: int) -> dict[int, int]:
    """Test prompt -> first train prompt that shares n words in a row with it, or is the same where both are shorter."""
    windows = [{tuple(w[i : i + n]) for i in range(len(w) - n + 1)} or {tuple(w)} for w in map(str.split, train)]
    found: dict[int, int] = {}
    for number, words in enumerate(map(str.split, test)):
        own = [tuple(words[i : i + n]) for i in range(len(words) - n + 1)] or [tuple(words)] * bool(words)
        for window in own:  # the first of its windows that is shared says which train prompt is named
            match = next((t for t, there in enumerate(windows) if window in there), None)
            if match is not None:
                found[number] = match
                break
    return found


WORDS = st.lists(st.sampled_from(["a", "b", "c", "dd"]), max_size=9).map(" ".join)


@given(st.lists(WORDS, max_size=6), st.lists(WORDS, max_size=6), st.integers(1, 4))
def test_what_is_found_is_what_a_slow_comparison_finds(train: list[str], test: list[str], n: int) -> None:
    # With a common of 1000 and prompts repeated up to 1001 times nothing can be a template.
    padding = [f"only{i}" for i in range(len(test))]
    found = overlap(train, [*test, *padding], n=n, common=1000)
    most = max(1, len(test) + len(padding)) // 2  # each n-gram stands in at most half of the prompts
    assert most >= len(test)
    assert {one.test: one.train for one in found.found} == slow(train, test, n)
    assert found.total == 2 * len(test)


def test_thirteen_words_in_a_row_are_an_overlap_and_twelve_are_not() -> None:
    words = LONG.split()
    twelve = " ".join(["so", *words[2:14], "the", "end"])
    thirteen = " ".join(["so", *words[2:15], "the", "end"])
    found = overlap([LONG], ["x", twelve, thirteen, "y"])
    assert found == Overlap(13, 4, (Shared(2, 0, " ".join(words[2:15])),))
    assert found.share == 0.25


def test_case_white_space_and_punctuation_do_not_hide_a_copy_and_a_changed_sign_is_no_copy() -> None:
    train = ["What is 3 + 4?", "Why?  Because"]
    assert [s.test for s in overlap(train, ["what  is: 3+4", "What is 3 - 4?", "What is 3 * 4?"]).found] == [0]
    assert overlap(["twenty-five"], ["Twenty five"]).share == 1.0
    assert overlap(["3 -4", "Count 5"], ["3 4", "Count 5!"]).share == 0.0
    assert overlap(["Count five"], ["Count five!"]).share == 1.0


def test_a_short_prompt_inside_a_longer_one_is_no_overlap() -> None:
    assert overlap([LONG], ["a train leaves at noon"]).share == 0.0


def test_texts_without_spaces_are_compared_character_by_character() -> None:
    long = "一列火车中午出发以每小时六十英里的速度行驶三个小时"
    assert [one.test for one in overlap([long], [long[3:20] + "吗", "中午出发"]).found] == [0]


def test_what_stands_in_most_test_prompts_is_their_template_and_is_no_overlap() -> None:
    template = "solve the following problem step by step and put your final answer inside a box at the end"
    problems = [f"{template} {word} eats {number} figs" for number, word in enumerate(["ann", "bob", "cy", "di", "ed"])]
    train = [f"{template} zoe counts {number} stars" for number in range(5)]
    assert overlap(train, problems).share == 0.0
    leak = f"{template} bob eats 1 figs"
    assert [(s.test, s.train) for s in overlap([*train, leak], problems).found] == [(1, 5)]
    # A template that is not taken out makes every prompt overlap.
    assert overlap(train, problems[:1], common=10).share == 1.0


def test_a_prompt_in_many_chunks_of_train_names_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("truegain.tasks.overlap._CHUNK_WORDS", 10)
    train = [f"filler {i} text" for i in range(50)]
    train[17] = train[31] = LONG
    train[33] = train[44] = "short one"
    found = overlap(iter(train), [LONG, "Short one"])
    assert [(s.test, s.train) for s in found.found] == [(0, 17), (1, 33)]


@pytest.mark.parametrize("knobs", [{"n": 0}, {"common": 0}])
def test_numbers_out_of_bounds_are_refused(knobs: dict[str, int]) -> None:
    with pytest.raises(SettingError, match="must be 1 or more"):
        overlap([], [], **knobs)


def test_nothing_to_compare_is_no_overlap() -> None:
    assert overlap([], []).share == overlap(["a"], []).share == overlap([], ["a"]).share == 0.0
    assert overlap(["", "?!", "  "], ["", "...", "\x00"]).found == ()


@given(st.lists(st.text(), max_size=5), st.lists(st.text(), max_size=5))
def test_no_text_breaks_it_and_a_copied_one_is_found(train: list[str], test: list[str]) -> None:
    found = overlap([*train, *test], test, n=2, common=5)
    assert all(0 <= one.train < len(train) + len(test) for one in found.found)


@pytest.mark.parametrize("text", ["a" * 3_000_000, "a " * 300_000, "-" * 1_000_000, "一" * 300_000, "+ " * 300_000])
def test_hostile_texts_take_linear_time(text: str) -> None:
    began = time.perf_counter()
    assert [s.test for s in overlap([text], [text, "b", "c"]).found] == ([0] if re.search(r"\w|\+|--", text) else [])
    assert time.perf_counter() - began < 20


def test_two_million_words_take_seconds() -> None:
    draw = random.Random(0)
    words = [f"w{i}" for i in range(5000)]
    train = [" ".join(draw.choices(words, k=200)) for _ in range(5000)] * 2
    test = [" ".join(draw.choices(words, k=200)) for _ in range(100)]
    test[7] = f"{test[7]} {' '.join(train[4321].split()[50:63])}"
    began = time.process_time()
    assert [(s.test, s.train) for s in overlap(train, test).found] == [(7, 4321)]
    assert time.process_time() - began < 10


@pytest.fixture
def spec(tmp_path: Path) -> str:
    train = write(tmp_path / "train.jsonl", [f"number {i} plus one" for i in range(60)] + [LONG])
    test = write(tmp_path / "test.jsonl", ["what is love", f"Now {LONG}?", "Number 3 plus ONE!", "number 4 plus one"])
    dev = write(tmp_path / "dev.jsonl", ["who are you", "where is it"])
    return f"{train},test={test},dev={dev}"


def test_a_data_files_overlap_is_told_with_file_and_line(tmp_path: Path, spec: str) -> None:
    task = parse(spec)
    by_split = {one.split: one for one in contamination(task)}
    train, test = tmp_path / "train.jsonl", tmp_path / "test.jsonl"
    # The fourth test prompt stands in train word for word, and was left out of it when the files were read.
    assert by_split["test"].places == (
        (f"{test}, line 2", f"{train}, line 61"),
        (f"{test}, line 3", f"{train}, line 4"),
    )
    assert by_split["dev"].overlap.found == ()
    (note,) = overlap_notes(task)
    assert note.startswith("train: 2 of 4 test prompts (50.0 %) share 13 words in a row with a train prompt")
    assert f"{test}, line 2 with {train}, line 61" in note and "\n" not in note


def test_a_mixtures_files_are_looked_at_one_by_one_and_generated_tasks_are_not(spec: str) -> None:
    assert [(one.task, one.split) for one in contamination(parse(f"sort+{spec}"))] == [
        ("train", "test"),
        ("train", "dev"),
    ]
    assert overlap_notes(parse("sort+add")) == []


def test_prompts_of_messages_are_compared_by_their_text(tmp_path: Path) -> None:
    def messages(text: str) -> dict[str, Any]:
        return {"prompt": [{"role": "user", "content": text}], "answer": "1"}

    train, test = tmp_path / "a.jsonl", tmp_path / "b.jsonl"
    train.write_text("".join(json.dumps(messages(f"{LONG} {i}")) + "\n" for i in range(30)))
    test.write_text(json.dumps(messages(f"so {LONG} now")) + "\n" + json.dumps(messages("hello")) + "\n")
    assert contamination(FileTask(train, test=test))[0].overlap.share == 0.5


def test_check_prints_places_and_exits_with_1_above_the_share(spec: str, capsys: pytest.CaptureFixture[str]) -> None:
    import typer

    with pytest.raises(typer.Exit) as ended:
        check(spec)
    assert ended.value.exit_code == 1
    assert "line 2 with" in capsys.readouterr().out
    check(spec, max_share=0.5)
    check(spec.split(",")[0], json=True, n=100, max_share=1.0)
    out = capsys.readouterr().out
    found = json.loads(out[out.index("{") :])
    assert found["ok"] and found["n"] == 100 and [one["split"] for one in found["overlap"]] == ["test", "dev"]


def test_check_reads_the_answer_keys(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import typer

    file = tmp_path / "keys.jsonl"
    file.write_text('{"prompt": "ask this", "answer": "4"}\n{"prompt": "tell that", "answer": " "}\n')
    with pytest.raises(typer.Exit):
        check(str(file))
    assert "line 2: the checker cannot read the answer ''" in capsys.readouterr().out
    check(str(file), keys=False)


def test_check_refuses_what_is_no_file() -> None:
    with pytest.raises(SettingError, match="names no data file"):
        check("sort")
