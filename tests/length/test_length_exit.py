"""DTO: the first thought that is good enough, what can be taken out, and the pairs that come of it."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from truegain.core.errors import SettingError
from truegain.core.types import Pair, Problem, Rollout
from truegain.methods.length import exit_and_prune
from truegain.methods.length._exit_and_prune import first_exit, thought_ends
from truegain.methods.length._thoughts import Cutting

END = 0  # the end mark's id


def decode(ids: Sequence[int]) -> str:
    return bytes(ids).decode()


ROLES = {"policy": SimpleNamespace(policy=SimpleNamespace(decode=decode, eos_ids=(END,)))}


def row(text: str, right: float = 1.0, name: str = "a", ended: bool = False, **facts: Any) -> Rollout:
    ids = (*text.encode(), *((END,) if ended else ()))
    found = {"correct": right, **facts}
    return Rollout(Problem(name, f"q{name}"), (), ids, (0.0,) * len(ids), text, "eos", (), facts=found)


class Forced:
    """An answer forced behind a text is right if ``judge(text, number)`` says so; what was asked is kept."""

    def __init__(self, judge: Any) -> None:
        self.judge, self.asked = judge, list[tuple[str, int]]()

    def fork(self, places: Any, samples: int, *, insert: str, **how: Any) -> list[Rollout]:
        found: list[Rollout] = []
        for trace, cut in places:
            text = decode(trace.ids[:cut])
            self.asked.append((text, samples))
            for n in range(samples):
                right = self.judge(text, n)
                said = row(text + insert + "9" * (samples - n), float(right or 0), trace.problem.id)
                found.append(row(said.text, 0.0, trace.problem.id, abstained="no") if right is None else said)
        return found


def pairs(loop: Any, *rows: Rollout, **knobs: Any) -> list[Pair]:
    how = {"words": ("wait",), "opening": "", "answering": "", "prune": False, "samples": 4, **knobs}
    return exit_and_prune(ROLES, loop, rows, **how)


TRACE = "a\nwait b\nwait c\nwait d\n</think>7"


def test_the_worked_example_of_the_catalog() -> None:
    assert first_exit([0.1, 0.3, 0.8, 0.9], 0.75) == 2
    assert first_exit([0.1, 0.3], 0.75) is None and first_exit([], 0.5) is None
    # The first that reaches it, not the largest; NaN, where no answer was judged, reaches nothing.
    assert first_exit([float("nan"), 0.75, 1.0], 0.75) == 1


def test_a_trace_is_cut_at_its_exit_and_ends_with_its_shortest_right_answer() -> None:
    rights = {1: 0, 2: 1, 3: 3, 4: 4}  # of 4 answers after so many thoughts: .75 is reached at the third
    loop = Forced(lambda text, n: n < rights[text.count("\n")])
    (pair,) = pairs(loop, row(TRACE, ended=True))
    # The answers 9999, 999, 99, 9: the first three are right, so 99.
    assert pair == Pair("a", "qa", "a\nwait b\nwait c\n</think>99", TRACE, {"exit": 3, "thoughts": 4})
    assert [text for text, _ in loop.asked] == [
        "a\n", "a\nwait b\n", "a\nwait b\nwait c\n", "a\nwait b\nwait c\nwait d\n",
    ]  # fmt: skip


def test_without_an_exit_the_trace_is_whole_and_a_wrong_one_makes_no_pair() -> None:
    never = Forced(lambda *_: False)
    assert pairs(never, row(TRACE, 1.0)) == []  # chosen would be rejected itself
    assert pairs(never, row(TRACE, 0.0)) == []
    (pair,) = pairs(never, row(TRACE), row("a\nwait b\nwait d\nwait x\nwait y\n</think>7", 0.0))
    assert pair.chosen == TRACE and pair.meta["exit"] == 0


def test_thoughts_that_the_answer_can_do_without_are_taken_out_last_ones_first() -> None:
    # Right as long as b is there.
    loop = Forced(lambda text, n: "b" in text)
    (pair,) = pairs(loop, row(TRACE), threshold=1.0, prune=True)
    assert pair.chosen.startswith("a\nwait b\n</think>") and pair.meta == {"exit": 2, "thoughts": 4}
    # Only the exit at the end is good enough; c is not needed, b and d are.
    loop = Forced(lambda text, n: "b" in text and "d" in text)
    (pair,) = pairs(loop, row(TRACE), threshold=1.0, prune=True)
    assert pair.chosen == "a\nwait b\nwait d\n</think>9"
    assert [text for text, n in loop.asked if n == 1] == [
        "a\nwait b\nwait c\n", "a\nwait b\nwait d\n", "a\nwait d\n",
    ]  # fmt: skip


@given(st.integers(1, 6), st.sets(st.integers(1, 6)), st.booleans(), st.sampled_from([0.25, 0.5, 1.0]), st.booleans())
def test_chosen_is_right_a_subsequence_of_a_trace_and_never_longer_than_a_right_rejected(
    thoughts: int, needed: set[int], right: bool, threshold: float, prune: bool
) -> None:
    lines = [("" if n == 1 else "wait ") + f"t{n}\n" for n in range(1, thoughts + 1)]
    trace = row("".join(lines) + "</think>7", float(right))
    loop = Forced(lambda text, n: all(f"t{k}\n" in text for k in needed))
    for pair in pairs(loop, trace, threshold=threshold, prune=prune):
        kept = pair.chosen.partition("</think>")[0].splitlines(keepends=True)
        rest = iter(lines)
        assert all(line in rest for line in kept)
        if kept != lines:
            assert all(f"t{k}\n" in "".join(kept) for k in needed)
        if right:
            assert len(pair.chosen) < len(pair.rejected)


def test_per_problem_the_shortest_right_result_is_preferred_to_the_longest_wrong_trace() -> None:
    always = Forced(lambda *_: True)
    rows = [
        row("aaaa\nwait b\n</think>7"), row("a\nwait b\n</think>7"), row("ccc\nwait d\nwait e\n</think>7"),
        row("x\n</think>7", 0.0, "b"), row("xx\n</think>7", 0.0, "b"), row("y\n</think>7", 1.0, "b"),
    ]  # fmt: skip
    first, second = pairs(always, *rows, samples=1)
    assert (first.id, first.chosen) == ("a", "a\n</think>9")
    assert first.rejected == rows[2].text  # the longest, as none is wrong
    # Forced answers are right on wrong traces, too: they are repaired.
    assert second.rejected == "xx\n</think>7" and second.chosen == "x\n</think>9"


def test_rows_and_answers_that_abstained_count_for_nothing() -> None:
    assert pairs(Forced(lambda *_: True), row(TRACE, 1.0, abstained="no verdict")) == []
    # Of four answers three abstained and one is right: 1 of 1.
    (pair,) = pairs(Forced(lambda _, n: True if n == 3 else None), row(TRACE))
    assert pair.meta["exit"] == 1


def test_an_empty_trace_has_no_thought() -> None:
    cutting = Cutting(("wait",), "\n", "", "</think>")
    assert thought_ends(row("</think>7"), decode, cutting) == [] and thought_ends(row(""), decode, cutting) == []
    assert pairs(Forced(lambda *_: True), row("")) == [] and pairs(Forced(lambda *_: True), row("</think>7")) == []


@pytest.mark.parametrize("wrong", [{"threshold": 0.0}, {"threshold": 1.1}, {"samples": 0}, {"max_tokens": 0}])
def test_knobs_that_cannot_be_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(SettingError, match="exit_and_prune"):
        pairs(None, row(TRACE), **wrong)
