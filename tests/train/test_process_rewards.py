"""A process reward model: labels by continuations, a head fitted to them, and how well it ranks."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from train_runs import llama

import truegain.recipes  # noqa: F401  (fills the table of systems)
from truegain.core.errors import SettingError, WiringError
from truegain.core.settings import with_setting
from truegain.core.system import build
from truegain.core.types import Problem, Rollout, Turn
from truegain.methods import credit, objective
from truegain.methods.evaluation import rank_accuracy
from truegain.policy.heads import ScalarHead
from truegain.policy.policy import Policy
from truegain.recipes.pure import pure
from truegain.train.chain import Chain, check, execute
from truegain.train.heads import check_heads, columns_of
from truegain.train.launch import StopSignal
from truegain.train.offline import Example
from truegain.train.process_rewards import ranked, said


def row(correct: float, steps: list[int], key: int = 1) -> Rollout:
    ids = tuple(range(10, 10 + len(steps)))
    text = "".join("abcdefghij"[s] if s >= 0 else " " for s in steps)
    said = (Turn("policy", 0, len(ids)),)
    return Rollout(
        Problem("p", "q"), (1,), ids, (0.0,) * len(ids), text, "eos", said, facts={"correct": correct}, key=key
    )


def labelled(
    rows: list[Rollout], steps: list[list[int]], right: list[list[float | None]], samples: int
) -> list[Rollout]:
    """`label_steps` where the n-th fork is continued with these verdicts; None is an abstention."""
    told = iter(right)

    def fork(places: Any, count: int) -> list[Any]:
        return [
            SimpleNamespace(facts={} if v is None else {"correct": v}) for _ in places for v in next(told)[:count]
        ]  # fmt: skip

    width = max(map(len, steps))
    table = torch.tensor([[*ids, *[-1] * (width - len(ids))] for ids in steps])
    draw = SimpleNamespace(segments=lambda rollouts, name: table, fork=fork)
    roles = {"policy": SimpleNamespace(policy=SimpleNamespace(decode=lambda ids: "x" * len(ids)))}
    return credit.label_steps(roles, draw, rows, samples=samples)[0]


def test_a_step_is_worth_the_share_of_right_answers_from_its_end() -> None:
    # two steps; from the first one's end 1 of 4 are right; the last is worth the rollout's own verdict
    (made,) = labelled([row(1.0, [0, 0, 1])], [[0, 0, 1]], [[1.0, 0.0, 0.0, 0.0]], 4)
    assert made.facts["step_reward"] == [0.25, 1.0] and made.facts["step"] == [0, 0, 1]


def test_a_step_that_nobody_could_judge_has_no_label_and_a_row_without_steps_is_dropped() -> None:
    (made,) = labelled([row(0.0, [0, 1])], [[0, 1]], [[None, None]], 2)
    assert made.facts["step_reward"] == [None, 0.0]
    (half,) = labelled([row(0.0, [0, 1])], [[0, 1]], [[None, 1.0]], 2)
    assert half.facts["step_reward"] == [1.0, 0.0]
    assert labelled([row(0.0, [-1, -1])], [[-1, -1]], [], 2) == []
    assert credit.label_steps({}, None, [replace(row(0.0, [0]), facts={})]) == ([], {})
    with pytest.raises(SettingError, match="samples=0"):
        credit.label_steps({}, None, [], samples=0)


steps_of = st.lists(st.lists(st.integers(-1, 3), min_size=1, max_size=6), min_size=1, max_size=3)


@given(steps_of)
def test_targets_stand_at_the_last_token_of_each_step_and_nowhere_else(ids: list[list[int]]) -> None:
    width = max(map(len, ids))
    step = torch.tensor([[*r, *[-1] * (width - len(r))] for r in ids])
    reward = torch.arange(1.0, 5.0).expand(len(ids), 4)
    target = credit.at_step_ends(reward, step)
    for r, numbers in enumerate(step.tolist()):
        for t, number in enumerate(numbers):
            last = number >= 0 and number not in numbers[t + 1 :]
            assert float(target[r, t]) == (number + 1.0 if last else 0.0)
    # the oracle: mean over all steps of the squared error at their ends, in plain Python
    value = torch.linspace(0.0, 1.0, step.numel()).reshape(step.shape)
    loss = float((objective.value_square(value, target, step) * objective.step_mean(step >= 0, step)).sum())
    errors = [
        (float(value[r, t]) - (n + 1.0)) ** 2
        for r, numbers in enumerate(step.tolist())
        for t, n in enumerate(numbers)
        if n >= 0 and n not in numbers[t + 1 :]
    ]
    assert math.isclose(loss, sum(errors) / len(errors) if errors else 0.0, rel_tol=1e-5, abs_tol=1e-6)


def test_a_target_that_nobody_knows_gives_no_loss_and_no_gradient() -> None:
    value = torch.tensor([[0.5, 0.5]], requires_grad=True)
    target = credit.at_step_ends(torch.tensor([[math.nan, 1.0]]), torch.tensor([[0, 1]]))
    loss = objective.value_square(value, target, torch.tensor([[0, 1]]))
    loss.sum().backward()
    assert loss.tolist() == [[0.0, 0.25]] and value.grad is not None and value.grad.tolist() == [[0.0, -1.0]]


def test_rows_of_a_data_set_become_columns_by_the_letters_of_their_names() -> None:
    examples = [Example((1,), (5, 6, 7), (True,) * 3), Example((1,), (5,), (True,))]
    rows = [
        {"step": [0, 0, 1], "step_reward": [0.5, None], "correct": 1.0},
        {"step": [0], "step_reward": [1], "correct": 0},
    ]
    batch = columns_of(examples, rows, torch.device("cpu"))
    assert batch["step"].tolist() == [[0, 0, 1], [0, -1, -1]]
    assert batch["correct"].tolist() == [1.0, 0.0]
    assert batch["step_reward"].isnan().tolist() == [[False, True], [False, True]]


def test_ranking_is_the_share_of_ordered_pairs_and_its_interval_is_over_problems() -> None:
    rng = np.random.default_rng(0)
    score, right, problem = rng.integers(0, 5, 60) / 4.0, rng.integers(0, 2, 60) * 1.0, np.arange(60) // 3
    pairs = [(a > b) + 0.5 * (a == b) for a in score[right == 1] for b in score[right == 0]]
    found = rank_accuracy(score, right, problem)
    assert found.value == pytest.approx(float(np.mean(pairs))) and found.low < found.value < found.high
    assert math.isnan(rank_accuracy(score, np.ones(60), problem).value)
    one = rank_accuracy(score, right, np.zeros(60, dtype=int))
    assert one.value == found.value and math.isnan(one.low)
    lost = rank_accuracy(np.append(score, math.nan), np.append(right, 1.0), np.append(problem, 0))
    assert lost.value == found.value and lost.dropped == 1


def small_forms() -> tuple[Any, ...]:
    forms: Any = build("math-shepherd", samples=2)
    out = []
    for form, settings in zip(
        forms, ({"steps": 1, "prompts": 4, "loop.samples": 2}, {"steps": 4, "prompts": 4}), strict=True
    ):
        for path, value in {**settings, "save_every": 2, "max_tokens": 12}.items():
            form = with_setting(form, path, value)
        out.append(form)
    return tuple(out)


def test_a_process_reward_model_is_fitted_and_fills_step_reward_of_a_recipe_that_names_it(tmp_path: Path) -> None:
    # the bandit's completions are one short step: enough to run every part on a model of a few hundred weights
    chain = Chain(
        small_forms(), "math-shepherd", tmp_path / "run", str(llama(tmp_path / "llama")), "bandit,level=10", 0
    )
    list(execute(chain, StopSignal()))
    left = json.loads((tmp_path / "run" / "2-fit" / "stage.json").read_text())
    assert left["policy"] is None and left["roles"] == {"steps": "model"}
    model = tmp_path / "run" / "2-fit" / "model"
    head = ScalarHead.load(model / "head.safetensors")
    assert float(head.linear.weight.detach().abs().sum()) > 0
    before, after = (Policy.load(p).weights() for p in (tmp_path / "llama", model))
    assert any(not value.equal(after[name]) for name, value in before.items())
    from truegain.tasks import make

    found = ranked(model, str(tmp_path / "llama"), make("bandit,level=10"), credit.by_step, problems=10, samples=2)
    assert found.completions == 20 and found.steps is None and "wrong answers" in said(found.to_json())
    role = pure(model=str(model)).roles["steps"]
    assert role.source == str(model) and role.lr is None


def test_a_fit_of_heads_without_labels_or_with_the_policy_beside_is_refused(tmp_path: Path) -> None:
    (_, fit) = small_forms()
    with pytest.raises(WiringError, match="labels rows"):
        check(Chain((fit,), "x", tmp_path / "x", task="sort"))
    (term,) = fit.terms
    with pytest.raises(WiringError, match="reward models alone"):
        check_heads(replace(fit, terms=(term, replace(term, role="policy"))))
