"""Rewards that are wrong on purpose, and the audit for leakage: by hand, against slow oracles, and in the loops."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import truegain.recipes  # noqa: F401  (fills the systems)
from truegain.core.errors import SettingError, WiringError
from truegain.core.forms import Decode, Train
from truegain.core.settings import loop_with
from truegain.core.system import build
from truegain.core.types import Problem, Rollout
from truegain.methods.reward import random_reward
from truegain.methods.verifier import complete_prompts, find_common_mistake, rouge_l
from truegain.policy.policy import Policy
from truegain.tasks import make
from truegain.train.chain import Chain, execute
from truegain.train.folder import RunFolder, read_lines
from truegain.train.online import Setup, check, train

PROBLEM = Problem("a", "a")


def said(*texts: str) -> list[Rollout]:
    return [Rollout(PROBLEM, (), (), (), text, "eos", ()) for text in texts]


def mistakes(answers: Sequence[str | None], correct: Sequence[float], group: Sequence[int]) -> list[float]:
    rows = said(*("no answer" if a is None else f"so <answer>{a}</answer>" for a in answers))
    return find_common_mistake(rows, torch.tensor(correct), torch.tensor(group))["common_mistake"].tolist()


def test_a_common_mistake_by_hand() -> None:
    # Group 0: 7 is right; among the wrong, 5 stands twice and 6 once. Group 1: 4 and 9 once each, 4 is first.
    answers = ["7", "5", " 5", "6", None, "9", "4", "3"]
    right = [1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0]
    assert mistakes(answers, right, [0] * 5 + [1] * 3) == [0, 1, 1, 0, 0, 0, 1, 0]


@given(rows=st.lists(st.tuples(st.integers(0, 2), st.sampled_from(["1", "2", "3", None])), min_size=1, max_size=12))
def test_common_mistakes_are_those_of_a_count_and_follow_their_rows(rows: list[tuple[int, str | None]]) -> None:
    def of(listed: list[tuple[int, str | None]]) -> list[float]:
        return mistakes([a for _, a in listed], [float(a == "1") for _, a in listed], [g for g, _ in listed])

    wanted: list[float] = []
    for number, answer in rows:
        votes = Counter(a for g, a in rows if g == number and a not in ("1", None))
        most = max(votes.values(), default=0)
        best = sorted(a for a, n in votes.items() if n == most and a is not None)
        wanted.append(float(bool(best) and answer == best[0]))
    assert of(rows) == wanted and of(rows[::-1]) == wanted[::-1]


@pytest.mark.parametrize("text", ["", "<answer>", "</answer>5<answer>", "<answer> </answer>"])
def test_a_row_without_an_answer_neither_votes_nor_earns(text: str) -> None:
    found = find_common_mistake(said(text), torch.zeros(1), torch.zeros(1, dtype=torch.long))
    assert found["common_mistake"].tolist() == [0.0]


def test_a_random_reward_depends_on_no_answer() -> None:
    key = torch.arange(20_000)
    pays = random_reward(key, step_index=3)
    right = (key % 3 == 0).float()
    # Its correlation with any verdict of 20000 rows has a deviation of 1 / sqrt(20000) = 0.007.
    assert abs(float(torch.corrcoef(torch.stack([pays, right]))[0, 1])) < 0.03


def longest(a: list[str], b: list[str]) -> int:
    if not a or not b:
        return 0
    return longest(a[1:], b[1:]) + 1 if a[0] == b[0] else max(longest(a[1:], b), longest(a, b[1:]))


@given(a=st.lists(st.sampled_from("xyz+"), max_size=6), b=st.lists(st.sampled_from("xyz+"), max_size=6))
def test_rouge_is_that_of_the_recursive_definition(a: list[str], b: list[str]) -> None:
    wanted = 2 * longest(a, b) / (len(a) + len(b)) if a or b else 1.0
    assert rouge_l(" ".join(a), " ".join(b)) == pytest.approx(wanted)


def audited(problems: list[Problem], knows: dict[str, str], **knobs: Any) -> tuple[list[Rollout], dict[str, float]]:
    """The audit of a model that goes on from the texts it knows, and says "?" elsewhere."""

    def again(begun: Sequence[Problem], samples: int, *, temperature: float) -> list[Rollout]:
        assert samples == 1 and temperature == 0.0
        whole = [next((t for t in knows.values() if t.startswith(str(p.prompt))), None) for p in begun]
        texts = ["?" if t is None else t[len(str(p.prompt)) :] for t, p in zip(whole, begun, strict=True)]
        return [replace(row, problem=p) for row, p in zip(said(*texts), begun, strict=True)]

    return complete_prompts(SimpleNamespace(again=again), problems, **knobs)


def test_the_audit_by_hand() -> None:
    # "ab cd ef gh" has 11 characters: at 0.6 the first 6 ("ab cd ") are given, "ef gh" remains. One of two is known.
    problems = [Problem("a", "ab cd ef gh\n", "42"), Problem("b", "kl mn op qr", "17")]
    rows, logs = audited(problems, {"a": "ab cd ef gh is 42."}, shares=(0.6,))
    assert logs == {"exact at 0.6": 0.5, "rouge at 0.6": 0.5, "told at 0.6": 0.5}
    assert [row.problem.prompt for row in rows] == ["ab cd ", "kl mn "]
    assert [(row.facts["exact"], row.facts["told"]) for row in rows] == [(1.0, 1.0), (0.0, 0.0)]


def test_an_answer_is_told_only_as_a_word_of_its_own() -> None:
    for text, told in (("x 42", 1.0), ("x 142", 0.0), ("x 42.5", 0.0), ("x 0.42", 0.0), ("x 42.", 1.0)):
        (row,), _ = audited([Problem("a", "abcd", "42")], {"a": f"abcd{text}"}, shares=(0.5,))
        assert row.facts["told"] == told, text


def test_the_audit_reads_the_last_message_of_a_chat_and_leaves_out_what_is_too_short() -> None:
    chat = Problem("a", ({"role": "user", "content": "abcdef"},), None)
    rows, logs = audited([chat, Problem("b", "x"), Problem("c", "")], {"a": "abcdef"}, shares=(0.5,))
    assert len(rows) == 1 and logs["exact at 0.5"] == 1.0 and logs["told at 0.5"] == 0.0
    assert audited([Problem("c", "")], {}) == ([], {})


@pytest.mark.parametrize("shares", [(), (0.0,), (0.5, 1.0)])
def test_shares_outside_of_0_to_1_are_refused(shares: tuple[float, ...]) -> None:
    with pytest.raises(SettingError, match="shares"):
        audited([PROBLEM], {}, shares=shares)


@pytest.mark.parametrize("rewarded", ["partial", "exact", "random", "inverted", "mistake", "format"])
def test_every_reward_trains_two_steps(rewarded: str, tmp_path: Path) -> None:
    (form,) = build("random-calculation", rewarded=rewarded, updates=2)
    assert isinstance(form, Train)
    form = loop_with(form, steps=2, prompts=2, samples=4, max_tokens=14, eval_every=0)
    task = make("calculation")
    with RunFolder(tmp_path / "run") as folder:
        lines = list(train(Setup(form, Policy.load("tiny"), task, folder), lambda: None))
    assert [line["step"] for line in lines if line["kind"] == "step"] == [1, 2]


def test_partial_credit_is_refused_before_training_where_nobody_gives_any() -> None:
    (form,) = build("random-calculation")
    assert isinstance(form, Train)
    with pytest.raises(WiringError, match=r"user_score needs column 'score'.*calculation"):
        check(form, make("sort"))


def test_the_audit_runs_before_training_and_leaves_what_it_found(tmp_path: Path) -> None:
    audit, _ = build("random-calculation", audit=True, updates=1)
    assert isinstance(audit, Decode)
    audit = replace(audit, loop=audit.loop.model_copy(update={"steps": 1, "prompts": 2, "max_tokens": 8}))
    chain = Chain((audit,), "random-calculation", tmp_path / "run", task="calculation,level=3")
    events = list(execute(chain, SimpleNamespace(reason=lambda: "")))  # pyright: ignore[reportArgumentType]
    (step,) = [event for event in events if event["kind"] == "step"]
    assert {"exact at 0.4", "rouge at 0.6", "told at 0.8"} <= set(step)
    rows = read_lines(tmp_path / "run" / "1-decode" / "dataset.jsonl")
    assert [row["share"] for row in rows] == [0.4, 0.4, 0.6, 0.6, 0.8, 0.8]
