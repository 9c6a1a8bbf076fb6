"""One right against many wrong: worked example, brute force, properties; on scores and on reward models."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import truegain.recipes  # noqa: F401  (registers the systems)
from truegain.core.errors import DataError, WiringError
from truegain.core.system import build
from truegain.methods.evaluation import one_to_many
from truegain.policy.heads import ScalarHead
from truegain.policy.policy import Policy
from truegain.train.chain import Chain, execute
from truegain.train.launch import StopSignal

WRONG = [1.0, 2.5, 0.3, -1.0, 1.5, 0.0, 0.2, 0.4, 2.2]


def judged(right: list[float], wrong: list[float]) -> Any:
    score = np.array([*right, *wrong], dtype=float)
    correct = np.array([1.0] * len(right) + [0.0] * len(wrong))
    return one_to_many(score, correct, np.zeros(len(score), dtype=int))


def test_the_worked_example_is_third_of_ten():
    # 2.5 and 2.2 are above 2.0: rank 3
    found = judged([2.0], WRONG)
    assert (found.accuracy.value, found.with_ties.value) == (0.0, 0.0)
    assert found.reciprocal_rank.value == pytest.approx(1 / 3)
    # one of ten by chance; (1 + 1/2 + ... + 1/10) / 10 = 0.2929
    assert found.chance_accuracy == pytest.approx(0.1)
    assert found.chance_reciprocal_rank == pytest.approx(sum(1 / n for n in range(1, 11)) / 10)


def test_a_constant_model_wins_nothing_and_has_the_last_rank():
    found = judged([1.0], [1.0] * 9)
    assert (found.accuracy.value, found.with_ties.value, found.reciprocal_rank.value) == (0.0, 1.0, 0.1)


@given(st.lists(st.integers(-3, 3), min_size=1, max_size=3), st.lists(st.integers(-3, 3), min_size=1, max_size=5))
def test_it_is_what_a_sorted_list_with_ties_against_the_right_one_says(right, wrong):
    found = judged(right, wrong)
    # As the paper's code: sort by score, wrong ones first among equals, and look for the first right one.
    order = sorted([(-s, 1) for s in right] + [(-s, 0) for s in wrong])
    place = next(n for n, (_, good) in enumerate(order, 1) if good)
    assert found.reciprocal_rank.value == pytest.approx(1 / place)
    assert found.accuracy.value == float(min(right) > max(wrong))
    assert found.with_ties.value == float(min(right) >= max(wrong))
    bounds = 1 / (len(wrong) + 1), 1.0
    assert bounds[0] - 1e-12 <= found.reciprocal_rank.value <= bounds[1]
    if len(right) == 1:
        assert (found.accuracy.value == 1.0) == (found.reciprocal_rank.value == 1.0)
    squashed = judged([math.exp(s / 2) for s in right], [math.exp(s / 2) for s in wrong])
    assert repr(squashed) == repr(found)


@pytest.mark.parametrize(("good", "bad"), [(1, 9), (2, 3), (3, 1)])
def test_chance_is_the_mean_over_every_order(good, bad):
    sides = (
        set(itertools.permutations([1] * good + [0] * bad))
        if good + bad < 9
        else {tuple(int(n == k) for n in range(10)) for k in range(10)}
    )
    found = judged([0.0] * good, [0.0] * bad)
    assert found.chance_accuracy == pytest.approx(sum(s[:good] == (1,) * good for s in sides) / len(sides))
    ranks = [s.index(1) + 1 for s in sides]
    assert found.chance_reciprocal_rank == pytest.approx(sum(1 / r for r in ranks) / len(ranks))


@pytest.mark.parametrize("wins", range(4))
def test_verdicts_of_a_judge_of_pairs_rank_by_the_number_of_its_losses(wins):
    # Won 3 of 3 only is right; each loss is one place.
    found = judged([0.5], [0.0] * wins + [1.0] * (3 - wins))
    assert found.accuracy.value == float(wins == 3)
    assert found.reciprocal_rank.value == pytest.approx(1 / (1 + 3 - wins))


def test_problems_may_differ_in_their_number_of_wrong_ones_and_stand_in_any_order():
    problem = np.array([7, 3, 7, 3, 3, 9, 5])
    correct = np.array([1.0, 0.0, 0.0, 1.0, 0.0, 1.0, 0.0])
    score = np.array([2.0, 0.0, 1.0, 0.5, 1.0, 1.0, 1.0])
    # 7: won, rank 1. 3: 0.5 against 0 and 1: lost, rank 2. 9 has no wrong one, 5 no right one: dropped
    found = one_to_many(score, correct, problem)
    assert found.accuracy.value == 0.5 and found.accuracy.dropped == 2 and found.accuracy.clusters == 2
    assert found.reciprocal_rank.value == pytest.approx(0.75)
    assert found.chance_accuracy == pytest.approx((1 / 2 + 1 / 3) / 2)
    unknown = one_to_many(np.append(score, 9.0), np.append(correct, math.nan), np.append(problem, 7))
    assert repr(unknown) == repr(found)


def test_a_model_that_abstains_ranks_last():
    nan = math.nan
    assert judged([nan], [0.0, 1.0]).reciprocal_rank.value == pytest.approx(1 / 3)
    assert judged([0.0], [nan, nan]).accuracy.value == 1.0
    both = judged([nan], [nan])
    assert (both.accuracy.value, both.with_ties.value) == (0.0, 1.0)


def test_without_a_problem_there_is_no_number():
    found = one_to_many(np.zeros(0), np.zeros(0), np.zeros(0, dtype=int))
    assert math.isnan(found.accuracy.value) and math.isnan(found.chance_accuracy)
    assert math.isnan(judged([1.0], []).accuracy.value)


# From the command line


def test_stored_scores_are_measured(tmp_path: Path):
    file = tmp_path / "scores.jsonl"
    rows = [{"problem": "a", "score": 2.0, "correct": 1.0}] + [
        {"problem": "a", "score": s, "correct": 0.0} for s in WRONG
    ]
    rows += [{"problem": "b", "score": 1.0, "correct": 1.0}, {"problem": "b", "score": 0.0, "correct": 0.0}]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    forms = build("rewardmath", stored=True)
    list(execute(Chain(forms, "rewardmath", tmp_path / "out", records=(file,)), StopSignal()))
    record = json.loads((tmp_path / "out" / "1-measure" / "record.json").read_text())["evaluation.one_to_many"]
    assert record["accuracy"]["value"] == 0.5
    assert record["reciprocal_rank"]["value"] == pytest.approx((1 / 3 + 1) / 2)


@pytest.fixture
def benchmark(tmp_path: Path) -> Path:
    file = tmp_path / "pairs.jsonl"
    rows = [{"prompt": f"{n}+1=", "chosen": str(n + 1), "rejected": str(n + k)} for n in range(1, 5) for k in (2, 3)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def test_an_ensemble_is_judged_on_a_file_of_pairs_each_member_and_their_mean(tmp_path: Path, benchmark: Path):
    policy = Policy.load("tiny")
    width = policy.model.config.hidden_size
    for m in range(2):
        policy.save(tmp_path / "rm" / f"member-{m}")
        head = ScalarHead(width)
        head.linear.weight.data[:] = (1 - 2 * m) * 0.01 * torch.arange(width)
        head.save(tmp_path / "rm" / f"member-{m}" / "head.safetensors")
    forms = build("rewardmath")
    chain = Chain(forms, "rewardmath", tmp_path / "out", model=str(tmp_path / "rm"), data=benchmark)
    list(execute(chain, StopSignal()))
    record = json.loads((tmp_path / "out" / "1-study" / "record.json").read_text())
    assert {"member-0", "member-1", "mean"} <= set(record)
    # four prompts of one right and two wrong completions each
    assert record["mean"]["accuracy"]["clusters"] == 4
    assert record["mean"]["chance_accuracy"] == pytest.approx(1 / 3)
    # opposite heads cancel: all scores tie, so the mean wins nothing outright
    assert record["mean"]["accuracy"]["value"] == 0.0 and record["mean"]["with_ties"]["value"] == 1.0


def test_it_is_refused_without_pairs_and_without_a_reward_model(tmp_path: Path, benchmark: Path):
    with pytest.raises(WiringError, match="--data FILE"):
        list(execute(Chain(build("rewardmath"), "rewardmath", tmp_path / "a"), StopSignal()))
    with pytest.raises(DataError, match="head"):
        list(execute(Chain(build("rewardmath"), "rewardmath", tmp_path / "b", data=benchmark), StopSignal()))
