"""IRD-ERD: what a thought repeats before its answer, the share behind it, and what they take off the reward."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from truegain.core.errors import SettingError, WiringError
from truegain.core.settings import loop_with
from truegain.core.types import Problem, Rollout
from truegain.methods.length import discount_redundancy, redundancy_of, register_embedding
from truegain.methods.length._embeddings import EMBEDDINGS, words
from truegain.methods.length._redundancy_of import repetition, sentences
from truegain.policy.policy import Policy
from truegain.recipes.ird_erd import ird_erd
from truegain.tasks import make
from truegain.train.folder import RunFolder
from truegain.train.online import Setup, train

SHARES = st.floats(0.0, 1.0)


def found_of(text: str, answer: str | None = "42", **knobs: Any) -> tuple[float, float]:
    row = Rollout(Problem("a", "a", answer), (), tuple(text.encode()), (), text, "eos", ())
    reader = SimpleNamespace(policy=SimpleNamespace(decode=lambda ids: bytes(ids).decode()))
    found = redundancy_of({"policy": reader}, [row], **knobs)
    return float(found["internal_redundancy"][0]), float(found["external_redundancy"][0])


def reward(inner: float, outer: float, right: float = 1.0, **knobs: Any) -> float:
    columns = [torch.tensor([x], dtype=torch.float64) for x in (right, inner, outer)]
    return float(discount_redundancy(*columns, **knobs))


def test_the_worked_example_of_the_catalog() -> None:
    inner = [0, 0.3, 0.5, 0.7, 0.9, 1.0]
    # p_int(.5) = (1 / (1 + e^-4) - s(0)) / (s(1) - s(0)) with s(0) = 1 / (1 + e^6) = .00247, s(1) = 1 - 8e-7: .98197
    assert [reward(x, 0.25, use="internal") for x in inner] == pytest.approx(
        [1.0, 0.99966, 0.98197, 0.49876, 0.01555, 0.0], abs=1e-5
    )
    assert [reward(x, 0.25) for x in inner] == pytest.approx([0.75, 0.74975, 0.73648, 0.37407, 0.01166, 0.0], abs=1e-5)
    assert [reward(x, 0.25, combine="mean") for x in inner] == pytest.approx(
        [0.875, 0.87483, 0.86599, 0.62438, 0.38278, 0.375], abs=1e-5
    )
    assert reward(0.3, 0.25, use="external") == 0.75


@given(SHARES, SHARES, st.floats(1.0, 40.0), st.floats(0.1, 0.9))
def test_the_reward_is_the_papers_formula(inner: float, outer: float, k: float, c: float) -> None:
    def s(x: float) -> float:
        return 1 / (1 + math.exp(-k * (x - c)))

    p_int = (s(1 - inner) - s(0)) / (s(1) - s(0))
    assert reward(inner, outer, steepness=k, centre=c) == pytest.approx(p_int * (1 - outer), abs=1e-9)
    assert 0 <= reward(inner, outer, steepness=k, centre=c) <= 1 + 1e-12
    assert reward(inner, outer, 0.0, steepness=k, centre=c) == 0.0


@given(st.lists(SHARES, min_size=2, max_size=6))
def test_more_of_either_redundancy_never_pays_and_the_tail_costs_its_share(shares: list[float]) -> None:
    rising = sorted(shares)
    assert all(reward(a, 0.3) >= reward(b, 0.3) - 1e-12 for a, b in pairwise(rising))
    whole = reward(0.4, 0.0)
    assert [reward(0.4, x) for x in rising] == pytest.approx([whole * (1 - x) for x in rising])
    assert reward(0.0, 0.0) == 1.0 and reward(1.0, 0.0) == 0.0


def test_a_thought_whose_answer_is_not_found_earns_nothing() -> None:
    assert reward(float("nan"), 0.2) == 0.0 and reward(0.2, float("nan"), combine="mean") == 0.0
    with pytest.raises(SettingError, match="steepness"):
        reward(0.1, 0.1, steepness=0.0)


def test_the_tail_counts_tokens_behind_the_first_place_that_states_the_answer() -> None:
    # 10 characters up to and with 42, of 20 in the thought.
    assert found_of("<think>it must be42! is it? </think>42")[1] != found_of("<think>so it is 42</think>42")[1]
    assert found_of("<think>so it 1=42, let me se</think>42")[1] == pytest.approx(1 - 10 / 21)
    assert found_of("<think>it is: 42</think>42 and so on")[1] == 0.0


@pytest.mark.parametrize(
    "text",
    ["<think>42 is it", "42</think>42</think>", "<think></think>42", "<think>it is 43</think>42", "", "</think>42"],
)
def test_no_thought_several_ends_or_no_answer_in_it_is_nan(text: str) -> None:
    assert all(map(math.isnan, found_of(text)))
    assert all(map(math.isnan, found_of("<think>so 42</think>42", answer=None)))


def test_equal_windows_repeat_wholly_and_windows_without_a_shared_word_not_at_all() -> None:
    for count in (2, 7, 40, 100):
        assert repetition(["we add two and two"] * count, 0.1, 0.05, words) == pytest.approx(1.0)
    apart = ["alpha beta", "gamma delta", "epsilon zeta", "eta theta"]
    assert repetition(apart, 0.1, 0.05, words) == pytest.approx(0.0, abs=1e-12)
    assert repetition(["one"], 0.1, 0.05, words) == 0.0 and repetition([], 0.1, 0.05, words) == 0.0
    # One window of the whole, or two: fewer than two windows repeat nothing.
    assert repetition(["a b", "a b"], 1.0, 1.0, words) == 0.0


def test_windows_slide_as_the_source_has_it() -> None:
    # N = 40: windows of 4, stride 2, starts 0, 2, .., 36. Sentences 0-19 are x, 20-39 y: of 18 neighbours only those
    # that meet at the border differ: (16-19 | 18-21) .. (20-23): x4 with x2y2: 1/sqrt2, x2y2 with y4: 1/sqrt2.
    said = ["x"] * 20 + ["y"] * 20
    assert repetition(said, 0.1, 0.05, words) == pytest.approx((16 + 2 * math.sqrt(0.5)) / 18)


def test_a_negative_cosine_counts_as_0() -> None:
    signs = {"a": 1.0, "b": -1.0}
    assert repetition(["a", "b", "a"], 0.1, 0.1, lambda texts: torch.tensor([[signs[t]] for t in texts])) == 0.0


def test_sentences_end_at_lines_and_marks_but_not_inside_of_maths_or_numbers() -> None:
    text = r"So $a. b$ and \(x! y\) hold. It is 3.5 big! And \[p. q\] too? yes" + "\n\nDone"
    assert sentences(text) == [
        r"So $a. b$ and \(x! y\) hold.", "It is 3.5 big!", r"And \[p. q\] too?", "yes", "Done",
    ]  # fmt: skip
    assert sentences("  \n ") == []


def test_an_embedding_is_a_registered_name() -> None:
    constant = lambda texts: torch.ones(len(texts), 2)  # noqa: E731
    register_embedding("constant", constant)
    try:
        assert found_of("<think>a\nb\nc 42</think>42", embed="constant")[0] == 1.0
        with pytest.raises(SettingError, match="known already"):
            register_embedding("constant", words)
    finally:
        del EMBEDDINGS["constant"]
    with pytest.raises(SettingError, match="no embedding 'wrods'"):
        found_of("<think>42</think>", embed="wrods")
    with pytest.raises(SettingError, match="shares"):
        found_of("<think>42</think>", window=0.0)


def test_the_recipe_takes_two_steps_and_refuses_a_task_without_a_checker_by_name(tmp_path: Path) -> None:
    form = loop_with(ird_erd(), steps=2, prompts=2, samples=4, max_tokens=80, eval_every=0, save_every=0)
    with RunFolder(tmp_path / "run") as folder:
        lines = list(train(Setup(form, Policy.load("tiny"), make("add,level=2,style=trace"), folder), lambda: None))
    steps = [line for line in lines if line["kind"] == "step"]
    assert len(steps) == 2 and all(0 <= line["reward"] <= 1 for line in steps)
    assert ird_erd(use="external").reward[0].keywords["use"] == "external"  # pyright: ignore

    from truegain.train.shaping import check_columns

    with pytest.raises(WiringError, match="discount_redundancy needs column 'correct', which task x does not supply"):
        check_columns(replace(form), frozenset(), "task x")
