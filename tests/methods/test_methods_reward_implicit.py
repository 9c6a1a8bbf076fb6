"""Rewards of a language model's log-ratio: goldens, an oracle, what must telescope, and where they plug in."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from itertools import accumulate
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import truegain.recipes  # noqa: F401  (registers the systems)
from truegain.core.component import spec_of
from truegain.core.errors import SettingError, WiringError
from truegain.core.settings import loop_with
from truegain.core.system import build
from truegain.core.types import Problem, Rollout
from truegain.methods.objective import sequence_mean
from truegain.methods.reward import (
    implicit_best,
    implicit_outcome,
    implicit_steps,
    outcome_cross_entropy,
    weakest_step,
)
from truegain.policy.policy import Policy
from truegain.train.chain import Chain, check, execute
from truegain.train.dataset import read_dataset
from truegain.train.launch import StopSignal

LOGP = torch.tensor([[-1.0, -0.5, -0.2, -0.8, -0.1]])
REF = torch.tensor([[-1.2, -0.9, -0.1, -0.3, -0.4]])
STEP = torch.tensor([[0, 0, 1, 1, 1]])
# A token: its log-ratio, whether it ends a step, whether the policy chose it, whether it lies in a step.
TOKENS = st.lists(st.tuples(st.floats(-4, 4), st.booleans(), st.booleans(), st.booleans()), min_size=1, max_size=12)
Token = tuple[float, bool, bool, bool]


def columns(rows: list[Token]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Log-probs, references, step ids and mask; padding holds rubbish, tokens outside a step have id -1."""
    ids, number = [], 0
    for _, ends, _, inside in rows:
        ids.append(number if inside else -1)
        number += int(ends and inside)
    mask = torch.tensor([[chosen for _, _, chosen, _ in rows] + [False]])
    logp = torch.tensor([[ratio for ratio, _, _, _ in rows] + [float("nan")]], dtype=torch.float64)
    return logp, torch.zeros_like(logp), torch.tensor([[*ids, -1]]), mask


def test_the_worked_example_of_the_catalog() -> None:
    mask = STEP >= 0
    # 0.05 * (0.2 + 0.4) = 0.03; 0.05 * (-0.1 - 0.5 + 0.3) = -0.015
    found = implicit_steps(LOGP, REF, STEP, mask)["step_reward"]
    assert found[0].tolist() == pytest.approx([0.03, -0.015], abs=1e-6)
    assert implicit_outcome(LOGP, REF, mask, beta=0.05).tolist() == pytest.approx([0.015], abs=1e-6)
    assert weakest_step(found, STEP, mask).tolist() == pytest.approx([-0.015], abs=1e-6)
    # running sums 0.03 and 0.015
    assert weakest_step(found, STEP, mask, running=True).tolist() == pytest.approx([0.015], abs=1e-6)


@given(TOKENS, st.floats(0.001, 2.0))
def test_step_rewards_are_differences_of_q_at_the_ends_of_steps(rows: list[Token], beta: float) -> None:
    logp, ref, step, mask = columns(rows)
    found = implicit_steps(logp, ref, step, mask, beta=beta)["step_reward"][0].tolist()
    q = list(accumulate(beta * ratio * chosen for ratio, _, chosen, _ in rows))
    ids = step[0, :-1].tolist()
    ends = [max(t for t, one in enumerate(ids) if one == k) for k in range(max(ids) + 1)]
    ends = [*ends[:-1], len(rows) - 1] if ends else []  # what follows the last step counts to it
    wanted = [q[end] - (q[ends[k - 1]] if k else 0.0) for k, end in enumerate(ends)]
    assert found == pytest.approx(wanted, abs=1e-9)
    if ends:
        assert sum(found) == pytest.approx(float(implicit_outcome(logp, ref, mask, beta=beta)), abs=1e-9)


@given(TOKENS)
def test_an_untrained_model_rewards_nothing_and_beta_changes_no_order(rows: list[Token]) -> None:
    logp, ref, step, mask = columns(rows)
    assert implicit_steps(logp, logp, step, mask)["step_reward"].nan_to_num().abs().sum() == 0
    small, large = (implicit_steps(logp, ref, step, mask, beta=b)["step_reward"] for b in (0.1, 0.2))
    assert torch.allclose(2 * small, large, equal_nan=True)


@given(TOKENS)
def test_the_weakest_step_is_the_least_that_is_there(rows: list[Token]) -> None:
    logp, ref, step, mask = columns(rows)
    given_ = implicit_steps(logp, ref, step, mask)["step_reward"]
    values = given_[0].tolist()
    there = sorted({i for i, m in zip(step[0].tolist(), mask[0].tolist(), strict=True) if m and i >= 0})
    running = list(accumulate(v if i in there else 0.0 for i, v in enumerate(values)))
    for cumulative, of in ((False, values), (True, running)):
        wanted = min((of[i] for i in there), default=0.0)
        assert float(weakest_step(given_, step, mask, running=cumulative)) == pytest.approx(wanted, abs=1e-9)


def test_rows_of_different_length_have_nan_past_their_last_step() -> None:
    step = torch.tensor([[0, 1, 2], [0, 0, -1], [-1, -1, -1]])
    logp = torch.ones(3, 3)
    found = implicit_steps(logp, logp * 0, step, step >= 0, beta=1.0)["step_reward"]
    assert found.isnan().tolist() == [[False] * 3, [False, True, True], [True] * 3]
    assert weakest_step(found, step, step >= 0).tolist() == [1.0, 2.0, 0.0]


def test_a_batch_without_tokens_or_steps_has_no_step_rewards() -> None:
    for width in (0, 2):
        nothing, none = torch.zeros(2, width), torch.full((2, width), -1)
        found = implicit_steps(nothing, nothing, none, none >= 0)["step_reward"]
        assert found.shape == (2, 0)
        assert weakest_step(found, none, none >= 0).tolist() == [0.0, 0.0]
        assert implicit_outcome(nothing, nothing, none >= 0).tolist() == [0.0, 0.0]


def test_a_nan_of_the_model_spoils_its_own_step_and_row() -> None:
    logp = torch.tensor([[1.0, math.nan], [1.0, 1.0]])
    step = torch.tensor([[0, 1], [0, 1]])
    found = implicit_steps(logp, logp * 0, step, step >= 0)["step_reward"]
    assert found.isnan().tolist() == [[False, True], [False, False]]
    assert implicit_outcome(logp, torch.zeros(2, 2), step >= 0).isnan().tolist() == [True, False]
    assert weakest_step(found, step, step >= 0).isnan().tolist() == [True, False]


@pytest.mark.parametrize("beta", [0.0, -1.0, math.nan])
def test_a_beta_that_is_not_positive_is_refused(beta: float) -> None:
    with pytest.raises(SettingError, match="beta"):
        implicit_steps(LOGP, REF, STEP, STEP >= 0, beta=beta)


def test_it_fills_the_column_that_process_reward_systems_read() -> None:
    assert spec_of(implicit_steps).fills == ("step_reward",)


# Training on outcomes, and best of n


def cross_entropy(rows: list[tuple[float, float]], label: float, beta: float = 0.05) -> float:
    table = torch.tensor([*rows, (math.nan, math.nan)], dtype=torch.float64).T[:, None]
    mask = table[0].isfinite()
    labels = torch.tensor([label], dtype=torch.float64)
    loss, _ = outcome_cross_entropy(table[0], table[1], mask, labels, beta=beta)
    return float((loss.nan_to_num() * sequence_mean(mask)).sum())


def test_the_worked_example_of_the_catalog_costs_what_it_says() -> None:
    # r = 0.015: log(1 + e^-0.015) = 0.685675; a wrong one log(1 + e^0.015) = 0.700675
    rows = list(zip(LOGP[0].tolist(), REF[0].tolist(), strict=True))
    assert cross_entropy(rows, 1.0) == pytest.approx(0.68568, abs=1e-5)
    assert cross_entropy(rows, 0.0) == pytest.approx(0.70068, abs=1e-5)


RATIOS = st.lists(st.tuples(st.floats(-4, 0), st.floats(-4, 0)), min_size=1, max_size=6)


@given(RATIOS, st.floats(0, 1), st.floats(0.01, 2.0))
def test_the_cross_entropy_is_the_formula(rows: list[tuple[float, float]], label: float, beta: float) -> None:
    p = 1 / (1 + math.exp(-beta * sum(a - b for a, b in rows)))
    wanted = -label * math.log(p) - (1 - label) * math.log(1 - p)
    assert cross_entropy(rows, label, beta) == pytest.approx(wanted, rel=1e-6, abs=1e-6)


def test_an_untrained_model_costs_log_2_and_its_gradient_follows_the_verdict() -> None:
    logp = torch.full((2, 3), -1.0, requires_grad=True)
    mask = torch.tensor([[True, True, False], [True, True, True]])
    loss, logs = outcome_cross_entropy(logp, logp.detach(), mask, torch.tensor([1.0, 0.0]), beta=0.5)
    (loss * sequence_mean(mask)).sum().backward()
    assert loss.detach().flatten().tolist() == pytest.approx([math.log(2)] * 6)
    assert logs["rewards/accuracies"].tolist() == [0.5, 0.5]
    assert logp.grad is not None
    # dL/dlogp_t = -/+ beta * (1 - sigmoid(0)) / rows = 0.5 * 0.5 / 2 on every token of the row, 0 in the padding
    assert logp.grad.flatten().tolist() == pytest.approx([-0.125, -0.125, 0.0, 0.125, 0.125, 0.125])


def test_a_row_without_tokens_has_no_loss_and_a_nan_spoils_its_own_row() -> None:
    mask = torch.tensor([[False], [True], [True]])
    logp = torch.tensor([[math.nan], [math.nan], [0.0]])
    loss, _ = outcome_cross_entropy(logp, torch.zeros(3, 1), mask, torch.ones(3))
    assert (loss * sequence_mean(mask))[0].item() == 0.0
    assert loss.isnan().flatten().tolist() == [False, True, False]


def drawn(problem: str, correct: float, ids: int = 2) -> Rollout:
    return Rollout(Problem(problem, "q"), (1,), (5,) * ids, (0.0,) * ids, "x", "eos", (), facts={"correct": correct})


def chosen(rows: list[Rollout], ratios: list[list[float]], steps: list[list[int]], by: Any) -> list[int]:
    """Which rows `implicit_best` keeps, by number."""
    step = torch.tensor(steps)
    logp = torch.tensor(ratios)
    columns = {"rm_logp": logp, "rm_ref_logp": torch.zeros_like(logp), "step": step, "mask": step > -2}
    named = [replace(row, sample=n) for n, row in enumerate(rows)]
    found, logs = implicit_best(SimpleNamespace(columns=lambda asked: columns), named, by=by)
    assert set(logs) == {"one", "best"}
    return [row.sample for row in found]


def test_best_of_n_scores_by_the_worst_step_the_worst_prefix_or_the_sum() -> None:
    rows = [drawn("a", 0.0), drawn("a", 1.0), drawn("a", 1.0)]
    ratios = [[-1.0, 3.0], [0.5, -0.9], [-0.2, -0.1]]
    steps = [[0, 1]] * 3
    # worst steps -1, -0.9, -0.2; worst prefixes min(-1, 2), min(0.5, -0.4), min(-0.2, -0.3); sums 2, -0.4, -0.3
    assert chosen(rows, ratios, steps, "step") == [2]
    assert chosen(rows, ratios, steps, "prefix") == [2]
    assert chosen(rows, ratios, steps, "sum") == [0]
    assert chosen(rows[:2], ratios[:2], steps[:2], "step") == [1]


def test_a_completion_without_steps_or_with_a_nan_loses_and_ties_go_to_the_first() -> None:
    rows = [drawn("a", 0.0), drawn("a", 1.0), drawn("b", 0.0), drawn("b", 1.0)]
    steps = [[-1, -1], [0, 0], [0, 0], [0, 0]]
    assert chosen(rows, [[9.0, 9.0], [-9.0, -9.0], [math.nan, 9.0], [-9.0, -9.0]], steps, "step") == [1, 3]
    assert chosen(rows, [[1.0, 1.0]] * 4, [[0, 0]] * 4, "sum") == [0, 2]
    assert implicit_best(None, []) == ([], {})


# The recipe


def test_outcomes_are_learned_by_a_copy_that_then_chooses_and_rewards_steps_of_other_systems(tmp_path: Path) -> None:
    small = {"steps": 2, "prompts": 4, "max_tokens": 110}
    forms = [loop_with(form, **small) for form in build("implicit-prm")]
    out = tmp_path / "run"
    made = Chain(tuple(forms), "implicit-prm", out, task="chain,level=5,style=trace")
    list(execute(made, StopSignal(say=lambda text: None)))
    assert json.loads((out / "2-fit/stage.json").read_text())["roles"] == {"prm": "model"}
    model = out / "2-fit/model"
    before, after = Policy.load("tiny").weights(), Policy.load(model).weights()
    assert any(not value.equal(after[name]) for name, value in before.items())
    kept = [json.loads(line) for line in (out / "3-decode/dataset.jsonl").read_text().splitlines()]
    assert len(kept) == 8 and len({row["id"] for row in kept}) == 8
    assert all(isinstance(row["rm_score"], float) and math.isfinite(row["rm_score"]) for row in kept)
    assert any(row["rm_score"] != 0.0 for row in kept)
    (form,) = build("pure", implicit=str(model))
    form = loop_with(form, steps=1, prompts=2, samples=4, max_tokens=110, eval_every=0)
    run = Chain(
        (form,), "pure", tmp_path / "pure", task=made.task, options={"sizes": {"dev": 2, "test": 2, "samples": 1}}
    )
    lines = [e for e in execute(run, StopSignal(say=lambda text: None)) if e["kind"] == "step"]
    assert len(lines) == 1 and math.isfinite(lines[0]["loss"])
    (other,) = build("prof", implicit=str(model))
    assert {name: role for name, role in form.roles.items() if name != "reference"} == other.roles


def test_two_process_reward_models_are_refused() -> None:
    for system in ("pure", "prof"):
        with pytest.raises(SettingError, match="one process reward model"):
            build(system, model="a", implicit="b")


def test_a_form_without_the_reward_model_or_its_reference_is_refused_before_training() -> None:
    (form,) = build("pure", implicit="tiny")
    lacks = replace(form, roles={name: role for name, role in form.roles.items() if name != "prm_reference"})
    with pytest.raises(WiringError, match=r"implicit_steps needs column 'rm_ref_logp'.*a role that fills it"):
        check(Chain((lacks,), "x", Path("x"), task="chain,style=trace"))
    _, fit, _ = build("implicit-prm")
    alone = replace(fit, roles={"prm": fit.roles["prm"]})
    with pytest.raises(WiringError, match=r"outcome_cross_entropy needs column 'ref_logp'.*a role that fills it"):
        check(Chain((alone,), "x", Path("x"), task="chain,style=trace", data=Path(__file__)))
    with pytest.raises(WiringError, match="labels rows"):
        check(Chain((fit,), "x", Path("x"), task="chain,style=trace"))


def test_labels_of_an_unpaired_data_set_of_trl_are_verdicts(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text(json.dumps({"prompt": "q", "completion": "a", "label": True}) + "\n")
    assert read_dataset(file, "completion", "correct")[0]["correct"] == 1.0
