"""Retro-Search: the value of an ending, which endings replace, and that no right answer is lost."""

from __future__ import annotations

import random
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from truegain.core.errors import SettingError
from truegain.core.probing import tokens_before
from truegain.core.types import Problem, Rollout
from truegain.methods.length import retro_search
from truegain.methods.length._retro_search import value
from truegain.methods.length._thoughts import Cutting

CUT = Cutting(("wait",), "\n", "", "")


def row(text: str, right: float = 1.0, key: int = 7, **facts: Any) -> Rollout:
    ids = tuple(text.encode())
    found = {"correct": right, **facts}
    return Rollout(Problem("a", "a"), (), ids, (0.0,) * len(ids), text, "eos", (), facts=found, key=key)


ROLES = {"policy": SimpleNamespace(policy=SimpleNamespace(decode=lambda ids: bytes(ids).decode()))}


class Endings:
    """Goes on with the given endings in turn; remembers where."""

    def __init__(self, *endings: tuple[str, float]) -> None:
        self.endings, self.places, self.next = endings, list[str](), 0

    def fork(self, places: Sequence[tuple[Rollout, int]], samples: int, *, role: str) -> list[Rollout]:
        found: list[Rollout] = []
        for trace, cut in places:
            begun = bytes(trace.ids[:cut]).decode()
            self.places.append(begun)
            for _ in range(samples):
                text, right = self.endings[self.next % len(self.endings)]
                self.next += 1
                found.append(row(begun + text, right))
        return found


def revised(trace: Rollout, loop: Any, **knobs: Any) -> list[Rollout]:
    how = {"words": ("wait",), "opening": "", "closing": "", "tries": 1, "keep": "all", **knobs}
    return retro_search(ROLES, loop, [trace], **how)


def steps(count: int, word: str = "go") -> str:
    return "".join(f"{word} {n}\n" for n in range(count))


def test_the_worked_example_of_the_catalog() -> None:
    # 6 steps remain behind the first one of 7: .9^6 = .53144; 4: .6561; 6: a tie; 3, but wrong: 0.
    at = len("a\n")
    old = row("a\nwait 0\n" + steps(6))
    assert value(old, at, 0.9, CUT) == pytest.approx(0.53144, abs=1e-5)
    rollouts = [row("a\n" + steps(5)), row("a\n" + steps(7)), row("a\n" + steps(4), 0.0)]
    assert [value(r, at, 0.9, CUT) for r in rollouts] == pytest.approx([0.6561, 0.53144, 0.0], abs=1e-5)
    for ending, right, replaced in ((steps(5), 1.0, 1), (steps(7), 1.0, 0), (steps(4), 0.0, 0)):
        (found,) = revised(old, Endings((ending, right)), gamma=0.9)
        assert found.facts["replaced"] == replaced
        assert found.text == ("a\n" + ending if replaced else old.text)


def test_after_a_replacement_the_search_goes_on_at_the_next_thought_of_the_new_trace() -> None:
    loop = Endings(("b\nwait 1\nc\nd\n", 1.0), ("e\n", 1.0))
    (found,) = revised(row("a\nwait 0\nb\nc\nwait 2\nd\ne\nf\n"), loop)
    # First at the end of thought 1; thought 1 is then a, b, and its end, before `wait 1`, is settled. Nothing is left.
    assert loop.places == ["a\n"] and found.text == "a\nb\nwait 1\nc\nd\n"
    loop = Endings(("b\nwait 1\nc\nwait 3\nd\n", 1.0), ("e\n", 1.0))
    (found,) = revised(row("a\nwait 0\nb\nc\nwait 2\nd\ne\nf\n"), loop)
    assert loop.places == ["a\n", "a\nb\nwait 1\nc\n"] and found.text == "a\nb\nwait 1\nc\ne\n"


def test_an_ending_that_begins_with_a_change_of_mind_is_passed_over() -> None:
    loop = Endings(("wait 9\n", 1.0), (" Wait, so\n", 1.0), ("waiting\nb\n", 1.0), ("c\n", 1.0))
    (found,) = revised(row("a\nwait 0\nb\nc\nd\n"), loop, tries=4)
    # The first that stays is taken, not the shortest; `waiting` is another word.
    assert found.text == "a\nwaiting\nb\n"
    assert revised(row("a\nwait 0\nb\nc\nd\n"), Endings(("wait 9\n", 1.0)), tries=4)[0].facts["replaced"] == 0
    (best,) = revised(row("a\nwait 0\nb\nc\nd\n"), Endings(("b\nc\n", 1.0), ("c\n", 1.0)), tries=2, samples=2)
    assert best.text == "a\nc\n"


def test_a_wrong_trace_is_repaired_by_any_right_ending_and_dropped_where_none_is() -> None:
    wrong = row("a\nwait\nb\n", 0.0)
    assert revised(wrong, Endings((steps(9), 1.0)), keep="right")[0].text == "a\n" + steps(9)
    assert revised(wrong, Endings((steps(9), 0.0)), keep="right") == []

    # A judge that abstained on the ending has not called it right.
    class Abstains(Endings):
        def fork(self, *given: Any, **how: Any) -> list[Rollout]:
            return [row(r.text, 1.0, abstained="no verdict") for r in super().fork(*given, **how)]

    assert revised(wrong, Abstains(("b\n", 1.0)))[0].facts["replaced"] == 0
    assert retro_search(ROLES, None, [row("a\nwait\n", 1.0, abstained="no")], words=("wait",)) == []


@given(
    st.lists(st.sampled_from(["go", "wait"]), min_size=1, max_size=10),
    st.booleans(), st.integers(0, 10_000), st.sampled_from([0.5, 0.9, 1.0]), st.integers(1, 3),
)  # fmt: skip
def test_a_right_trace_stays_right_and_never_gets_longer_and_all_stays_where_nothing_is_better(
    lines: list[str], right: bool, seed: int, gamma: float, samples: int
) -> None:
    rng = random.Random(seed)

    class Luck(Endings):
        def fork(self, places: Any, count: int, *, role: str) -> list[Rollout]:
            return [
                row(
                    bytes(trace.ids[:cut]).decode()
                    + "".join(f"{rng.choice(['go', 'wait'])}\n" for _ in range(rng.randint(0, 6))),
                    float(rng.random() < 0.5),
                )
                for trace, cut in places
                for _ in range(count)
            ]  # fmt: skip

    trace = row("".join(f"{line}\n" for line in lines), float(right))
    (found,) = revised(trace, Luck(), gamma=gamma, tries=3, samples=samples)
    assert found.facts["correct"] >= trace.facts["correct"]
    if right:
        assert len(CUT.steps(found.text)) <= len(lines)
        if gamma == 1.0:
            assert found.text == trace.text
    (same,) = revised(trace, Endings(("x\n" * 40, 0.0)), gamma=gamma)
    assert same.text == trace.text and same.facts["replaced"] == 0


def test_a_random_beginning_leaves_thoughts_before_it_alone_and_depends_on_the_row_alone() -> None:
    text = "a\n" + "wait\nb\n" * 6
    first = {}
    for key in range(40):
        loop = Endings(("x\n" * 40, 0.0))
        revised(row(text, key=key), loop, begin="random")
        first[key] = len(loop.places)
        again = Endings(("x\n" * 40, 0.0))
        revised(row(text, key=key), again, begin="random")
        assert again.places == loop.places
    assert set(first.values()) == {1, 2, 3, 4, 5, 6}


def test_traces_without_a_thought_or_without_a_change_of_mind_come_back_as_they_are() -> None:
    for text in ("", "a\nb\n", "wait\n"):
        (found,) = revised(row(text), Endings(("c\n", 1.0)))
        assert found.text == text and found.facts["replaced"] == 0
    assert found.facts["steps"] == 1


def test_the_thought_lies_between_its_marks() -> None:
    cutting = Cutting(("wait",))
    text = "wait\n<think>a\nwait b\n</think>wait c\n"
    assert [text[start : start + 3] for start in cutting.thoughts(text)] == ["a\nw", "wai"]
    assert cutting.bounds("no marks") == (0, 8)
    assert tokens_before(row(text), lambda ids: bytes(ids).decode(), 8) == 8


@pytest.mark.parametrize("wrong", [{"gamma": 0.0}, {"gamma": 1.1}, {"samples": 0}, {"samples": 2, "tries": 1}])
def test_knobs_that_cannot_be_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(SettingError, match="retro_search"):
        revised(row("a"), None, **wrong)


def test_no_words_and_no_boundary_are_refused() -> None:
    with pytest.raises(SettingError, match="words"):
        Cutting(())
    with pytest.raises(SettingError, match="boundary"):
        Cutting(("wait",), "")
