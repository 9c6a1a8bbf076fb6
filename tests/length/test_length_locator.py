"""Where a thought turns to reflect, and where it first has the answer."""

from __future__ import annotations

import inspect
import re
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from truegain.core.errors import SettingError
from truegain.core.types import Problem, Rollout, Turn
from truegain.methods.length import answer_end, answers_by_probe, by_reflection, stated_answers


def characters(text: str) -> list[tuple[int, int]]:
    return [(i, i + 1) for i in range(len(text))]


def steps(text: str, **knobs: Any) -> list[str]:
    """The text of each step."""
    ids = by_reflection(text, characters(text), **{"skip": 0, "gap": 0, **knobs})
    return ["".join(c for c, n in zip(text, ids, strict=True) if n == number) for number in range(max(ids) + 1)]


def test_a_step_begins_with_the_sentence_that_holds_the_word() -> None:
    text = "<think>2+2 is 4. I think so. Hmm, wait a bit. It was 5! Then\nhowever it ends</think>4"
    assert steps(text) == [
        "<think>2+2 is 4. I think so.",
        " Hmm, wait a bit. It was 5! Then\n",
        "however it ends",
    ]


def test_the_embedded_traces_are_cut_at_their_checks_and_turns() -> None:
    assert steps("<think>1:1\n2:21\nno back\n2:12\ncheck 12 ok</think><answer>1 2</answer>") == [
        "<think>1:1\n2:21\n",
        "no back\n2:12\n",
        "check 12 ok",
    ]


def test_words_are_whole_and_those_too_early_or_too_close_are_passed_over() -> None:
    assert steps("butter.awaits.waiter") == ["butter.awaits.waiter"]
    # `wait` stands at characters 4, 12, 20 and 28 of the thought; the gap is counted from the last one taken.
    text = "....wait....wait....wait....wait"
    assert len(steps(text, skip=5)) == 4 and len(steps(text, skip=13)) == 3
    assert steps(text, gap=9) == ["....", "wait....wait....", "wait....wait"]
    assert steps(text, gap=17) == ["....", "wait....wait....wait....", "wait"]


def test_the_gap_is_counted_from_where_a_step_begins_and_a_word_without_a_sentence_before_it_begins_one() -> None:
    # The published code keeps the accepted place, behind the sentence's end, and not the word's. The step begins at 3;
    # the second word stands at 23, 10 behind the first one at 13 and 20 behind the step.
    text = "..." + " " * 10 + "wait" + "." + " " * 5 + "wait"
    assert len(text) == 27 and text.rindex("wait") == 23
    assert len(steps(text, gap=15)) == 3 and len(steps(text, gap=20)) == 3 and len(steps(text, gap=21)) == 2
    assert steps("one two wait three") == ["one two ", "wait three"]
    assert steps("wait, one") == ["wait, one"]


def test_the_answer_and_what_the_policy_did_not_write_are_outside() -> None:
    text = "a\nwait</think><answer>1</answer>"
    ids = by_reflection(text, [*characters(text), (-1, -1)], skip=0)
    assert ids == [0, 0, 1, 1, 1, 1] + [-1] * (len(text) - 6 + 1)
    assert by_reflection("", [], skip=0) == []
    assert by_reflection("</think>1", characters("</think>1"), skip=0) == [-1] * 9
    # A mark that opens behind the end opens nothing, and none at all is no fault.
    assert steps("a. wait</think><think>b") == ["a.", " wait"]


@given(st.text(alphabet="ab. \nwit<>/hnk", max_size=60), st.integers(0, 20), st.integers(0, 20))
def test_ids_never_fall_and_skip_no_number(text: str, skip: int, gap: int) -> None:
    ids = [n for n in by_reflection(text, characters(text), skip=skip, gap=gap) if n >= 0]
    assert ids == sorted(ids) and set(ids) == set(range(len(set(ids))))


def test_segments_without_words_or_with_negative_bounds_are_refused() -> None:
    for knobs in ({"words": ()}, {"skip": -1}, {"gap": -1}):
        with pytest.raises(SettingError, match="by_reflection"):
            by_reflection("a", [(0, 1)], **knobs)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(
    ("text", "answer", "end"),
    [
        ("so it is 48.", "48", 11),
        ("6*8=48", "48", 6),
        ("48", "48", 2),
        ("148, 480, 4.8, -48, x48, 0.48, 48.5, 6+48", "48", None),
        ("**48**", "48", 4),
        ("7*48", "48", None),
        ("it is -3", "-3", 8),
        ("1,234 then 1234", "1234", 5),
        ("123 of 1,123", "123", 3),
        ("(3+5)*2 gives 16", "(3+5)*2", 7),
        ("1  2\n3", "1 2 3", 6),
        ("anything", "", None),
        (r"\boxed{\frac{1}{2}}", r"\frac{1}{2}", 18),
    ],
)
def test_an_answer_is_found_where_it_stands_on_its_own(text: str, answer: str, end: int | None) -> None:
    assert answer_end(text, answer) == end


def test_the_search_begins_where_it_is_told_to_and_sees_what_stands_before() -> None:
    assert answer_end("48 and 48", "48", 1) == 9
    assert answer_end("148", "48", 1) is None


@given(st.integers(1000, 10**12))
def test_a_large_number_is_found_with_and_without_commas(value: int) -> None:
    for written in (str(value), f"{value:,}"):
        assert answer_end(f"so {written}.", str(value)) == 3 + len(written)


def spelled(text: str, answer: str | None) -> Rollout:
    said = (Turn("policy", 0, len(text)),)
    return Rollout(Problem("a", "a", answer), (), tuple(range(len(text))), (0.0,) * len(text), text, "eos", said)


def judged(text: str, answer: str | None) -> list[float]:
    """The verdict on each step of one row, a token a character."""
    step = torch.tensor([by_reflection(text, characters(text), skip=0, gap=0)])
    role = SimpleNamespace(policy=SimpleNamespace(decode=lambda ids: text[: len(ids)]))
    return stated_answers({"policy": role}, [spelled(text, answer)], step)["has_answer"][0].tolist()


def test_each_step_is_judged_by_what_it_wrote_itself() -> None:
    text = "2+2 is 5.\nWait, it is 4.\nCheck: 4.\nHmm, or 14?</think>4"
    assert judged(text, "4") == [0.0, 1.0, 1.0, 0.0]
    found = judged(text, None)
    assert len(found) == 4 and all(value != value for value in found), "no reference answer, no verdict"


def test_an_answer_that_only_the_final_block_states_is_in_no_step() -> None:
    assert judged("thinking\nwait</think><answer>4</answer>", "4") == [0.0, 0.0]


def test_an_empty_completion_has_no_step_to_judge() -> None:
    role = SimpleNamespace(policy=SimpleNamespace(decode=lambda ids: ""))
    empty = stated_answers({"policy": role}, [spelled("", "4")], torch.zeros(1, 0, dtype=torch.long))
    assert empty["has_answer"].shape == (1, 0)


def test_a_probe_reaches_the_answer_at_its_threshold_and_nan_stays() -> None:
    found = answers_by_probe(torch.tensor([[0.49, 0.5, 1.0, float("nan")]]))["has_answer"]
    assert found[0, :3].tolist() == [0.0, 1.0, 1.0] and found[0, 3].isnan()
    for threshold in (0.0, 1.5):
        with pytest.raises(SettingError, match=re.escape(f"threshold={threshold}")):
            inspect.unwrap(answers_by_probe)(torch.ones(1, 1), threshold=threshold)
