"""Dualformer: which parts of a trace are left out, that the plan never is, and that the first token decides."""

from __future__ import annotations

import random
import re
from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from truegain.core.errors import SettingError
from truegain.core.types import Request, Sampling
from truegain.methods.length import drop_trace, force_first
from truegain.policy.policy import Policy
from truegain.recipes.dualformer import dualformer
from truegain.rollout.engines import engine_for
from truegain.tasks import make_one
from truegain.train.dataset import examples_of
from truegain.train.stages.fit import _editing  # pyright: ignore[reportPrivateUsage]

MAZE = (
    "<think>create 0 0 c0 c4\nclose 0 0 c0 c4\ncreate 1 0 c1 c3\ncreate 0 1 c1 c5\nclose 1 0 c1 c3\ncreate 2 0 c2 c2\n"
    "</think>plan 0 0\nplan 1 0\nplan 2 0"
)
CREATES = ["create 0 0 c0 c4\n", "create 1 0 c1 c3\n", "create 0 1 c1 c5\n", "create 2 0 c2 c2\n"]


def at(level: int, seed: int = 0, **knobs: object) -> str:
    chances = [0.0] * 4
    if level:
        chances[level - 1] = 1.0
    return drop_trace(MAZE, random.Random(seed), chances=tuple(chances), **knobs)  # pyright: ignore


def test_each_level_by_hand() -> None:
    plan = "plan 0 0\nplan 1 0\nplan 2 0"
    assert at(0) == MAZE
    assert at(1) == "<think>" + "".join(CREATES) + "</think>" + plan
    assert at(2) == "<think>create 0 0\ncreate 1 0\ncreate 0 1\ncreate 2 0\n</think>" + plan
    assert at(4) == plan
    # 30 % of 4 clauses is 1, of 9 % none; with costs kept on level 1, and without them on level 2.
    assert at(3, share=(30, 30)).count("create") == 3 and " c" in at(3, share=(30, 30))
    assert at(3, share=(9, 9)) == at(1) and at(3, share=(0, 0), on=2) == at(2)
    assert at(3, share=(100, 100)) == "<think></think>" + plan


@given(st.integers(0, 10_000), st.floats(0.0, 0.25), st.floats(0.0, 0.25), st.sampled_from([1, 2]), st.booleans())
def test_the_plan_is_never_dropped_and_levels_are_nested(
    seed: int, a: float, b: float, on: int, independent: bool
) -> None:
    found = drop_trace(MAZE, random.Random(seed), chances=(a, b, a, b), on=on, independent=independent)
    assert found.endswith("plan 0 0\nplan 1 0\nplan 2 0")
    assert len(at(0)) >= len(at(1)) >= len(at(2)) >= len(at(4))
    assert len(at(3, seed, on=on, independent=independent)) <= len(at(on))


def test_the_levels_come_as_often_as_they_should() -> None:
    levels = {at(0): 0, at(1): 1, at(2): 2, at(4): 4}
    found = [
        levels.get(drop_trace(MAZE, random.Random(n), chances=(0.2, 0.1, 0.3, 0.15), share=(30, 40)), 3)
        for n in range(4000)
    ]
    shares = [found.count(level) / 4000 for level in range(5)]
    # Three deviations of a share of 4000 are at most 2.4 points.
    assert shares == pytest.approx([0.25, 0.2, 0.1, 0.3, 0.15], abs=0.024)


def test_which_clauses_go_differs_by_use_and_no_chance_leaves_all() -> None:
    assert len({at(3, seed, share=(30, 30)) for seed in range(40)}) == 4
    assert drop_trace(MAZE, random.Random(3), chances=(0.0, 0.0, 0.0, 0.0)) == MAZE
    kept = [at(3, seed, share=(30, 30), independent=True).count("create") for seed in range(300)]
    assert sum(kept) / 1200 == pytest.approx(0.7, abs=0.05) and len(set(kept)) > 2


@pytest.mark.parametrize("text", ["plan 0 0", "<think>create 0 0", "</think>a<think>", ""])
def test_a_text_without_a_trace_stays(text: str) -> None:
    assert drop_trace(text, random.Random(0), chances=(0.0, 0.0, 0.0, 1.0)) == text


@pytest.mark.parametrize(
    "wrong", [{"chances": (0.5, 0.5, 0.1, 0.0)}, {"chances": (-0.1, 0, 0, 0)}, {"share": (40, 10)}, {"on": 3}]
)
def test_knobs_that_cannot_be_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(SettingError, match="drop_trace"):
        drop_trace(MAZE, random.Random(0), **wrong)  # pyright: ignore


def knobs_of_recipe() -> dict[str, object]:
    edit = dualformer().edit
    assert isinstance(edit, tuple)
    return dict(edit[0].keywords)  # pyright: ignore


@pytest.mark.parametrize("task", ["chain,level=6,style=trace", "sort,level=6,style=trace", "add,level=3,style=trace"])
def test_on_the_embedded_tasks_level_1_leaves_the_clean_trace(task: str) -> None:
    made, knobs = make_one(task), knobs_of_recipe() | {"chances": (1.0, 0.0, 0.0, 0.0)}
    for n in range(60):
        problem = made.problem("train", n)
        texts = [made.demonstration(problem, random.Random(f"{n}-{k}")) for k in range(20)]
        clean = next(t for t in texts if "check" not in t and "back" not in t)
        for text in texts:
            assert drop_trace(text, random.Random(0), **knobs) == clean  # pyright: ignore


def test_level_2_leaves_results_without_the_sums_and_the_answer_stays() -> None:
    made, knobs = make_one("chain,level=6,style=trace"), knobs_of_recipe() | {"chances": (0.0, 1.0, 0.0, 0.0)}
    problem = made.problem("train", 3)
    short = drop_trace(made.demonstration(problem, random.Random(0)), random.Random(0), **knobs)  # pyright: ignore
    assert re.fullmatch(r"<think>(?:[a-p]=[0-9]\n){5}f=[0-9]</think><answer>[0-9]</answer>", short)


def test_an_example_is_drawn_anew_at_each_use_and_repeats_with_the_seed() -> None:
    policy, form = Policy.load("tiny"), dualformer(chances=(0.25, 0.25, 0.25, 0.25))
    made = make_one("chain,level=6,style=trace")
    problem = made.problem("train", 1)
    data = [{"prompt": problem.prompt, "completion": made.demonstration(problem, random.Random(1)), "id": problem.id}]
    examples = examples_of(policy, data, 0, _editing(form, 0))
    again = examples_of(policy, data, 0, _editing(form, 0))
    other = examples_of(policy, data, 1, _editing(form, 1))
    uses = [examples(n).completion for n in range(40)]
    assert len(set(uses)) > 4 and uses == [again(n).completion for n in range(40)]
    assert uses != [other(n).completion for n in range(40)]
    assert all(policy.decode(ids).replace("<eos>", "").endswith(f"<answer>{problem.answer}</answer>") for ids in uses)


def test_the_first_token_is_forced_and_no_other() -> None:
    logits = torch.tensor([[0.0, 1.0, 2.0]])
    empty, said = torch.zeros(1, 0, dtype=torch.long), torch.zeros(1, 1, dtype=torch.long)
    assert force_first(logits, empty, token=1).tolist() == [[float("-inf"), 1.0, float("-inf")]]
    assert torch.equal(force_first(logits, said, token=1), logits)
    assert torch.equal(force_first(logits, empty), logits)
    with pytest.raises(SettingError, match="token=3"):
        force_first(logits, empty, token=3)


def test_fast_mode_writes_no_trace_and_slow_mode_writes_one() -> None:
    policy = Policy.load("tiny")
    engine = engine_for(policy)
    prompt = policy.encode_prompt("chain a=3 b=a+4 c=b*2 think\n")
    for mark in ("<answer>", "<think>"):
        (token,) = policy.encode(mark)
        how = Sampling(max_tokens=60, stop=("</answer>",), samplers=(partial(force_first, token=token),))
        for sample in engine.generate([Request(prompt, key=n) for n in range(8)], how):
            text = policy.decode(sample.ids)
            assert text.startswith(mark) and ("<think>" in text) == (mark == "<think>")
