"""Stated confidence, rewards that weigh it, what carries their mean, pairs for PPO-M: examples, oracle, properties."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from truegain.core.errors import SettingError
from truegain.core.forms import Fit, members
from truegain.core.settings import loop_with
from truegain.core.system import build
from truegain.core.types import Pair, Problem, Rollout
from truegain.methods.preference import bradley_terry
from truegain.methods.reward import carry, confidence_pairs, reward_sureness, stated_confidence
from truegain.policy.policy import Policy
from truegain.recipes.ppo_m_ppo_c import ppo_m_ppo_c
from truegain.tasks import make
from truegain.train.folder import RunFolder
from truegain.train.online import Setup, train

ROWS = st.lists(st.tuples(st.floats(-20, 20), st.floats(0, 1)), min_size=1, max_size=6)


def shaped(rewards: list[float], sure: list[float], **knobs: Any) -> tuple[list[float], float]:
    value, logs = reward_sureness(
        torch.tensor(rewards, dtype=torch.float64), torch.tensor(sure, dtype=torch.float64), **knobs
    )
    return value.tolist(), float(logs["truegain/running_reward"])


def test_both_forms_are_those_of_the_worked_example() -> None:
    # mu = 0.1 * mean(1, -0.5, 0.2) = 0.1 * 0.23333 = 0.02333.
    # difference, w = 2: 1 + 2 * 0.97667 * 0.4 = 1.78133; -0.5 - 2 * 0.52333 * 0.3 = -0.814; 0.2 - 2 * 0.17667 * 0.3.
    value, mu = shaped([1.0, -0.5, 0.2], [0.9, 0.8, 0.2])
    assert mu == pytest.approx(0.02333, abs=1e-5)
    assert value == pytest.approx([1.78133, -0.814, 0.094], abs=1e-5)
    # threshold, w = 0.5: 1 + 0.5 * 1 * 0.4; -0.5 - 0.5 * 0.5 * 0.3 = -0.575; 0.2 + 0.5 * 0.2 * -0.3 = 0.17.
    value, _ = shaped([1.0, -0.5, 0.2], [0.9, 0.8, 0.2], form="threshold", weight=0.5)
    assert value == pytest.approx([1.2, -0.575, 0.17], abs=1e-5)


def slow(rows: list[tuple[float, float]], form: str, weight: float, mean: float) -> list[float]:
    cut = [min(max(r, -10.0), 10.0) for r, _ in rows]
    mu = 0.1 * math.fsum(cut) / len(cut) + 0.9 * mean
    out: list[float] = []
    for r, (_, c) in zip(cut, rows, strict=True):
        if form == "difference":
            out.append(r + weight * (r - mu) * (c - 0.5))
        else:
            out.append(r + weight * abs(r) * (c - 0.5) * (1 if r >= mu else -1))
    return out


@given(ROWS, st.sampled_from(["difference", "threshold"]), st.floats(0, 3), st.floats(-2, 2))
def test_the_rewards_equal_the_formula_written_out(rows: Any, form: str, weight: float, mean: float) -> None:
    found, _ = shaped([r for r, _ in rows], [c for _, c in rows], form=form, weight=weight, mean=mean)
    assert found == pytest.approx(slow(rows, form, weight, mean), rel=1e-9, abs=1e-9)


@given(st.lists(st.floats(-5, 5), min_size=2, max_size=5), st.sampled_from(["difference", "threshold"]))
def test_confidence_pays_above_the_mean_costs_below_and_one_half_changes_nothing(r: list[float], form: str) -> None:
    low, mu = shaped(r, [0.2] * len(r), form=form)
    high, _ = shaped(r, [0.8] * len(r), form=form)
    for reward, a, b in zip(r, low, high, strict=True):
        assert b >= a - 1e-12 if reward >= mu else b <= a + 1e-12
    assert shaped(r, [0.5] * len(r), form=form)[0] == pytest.approx(r)
    assert shaped(r, [0.9] * len(r), form=form, weight=0.0)[0] == pytest.approx(r)


def test_a_nan_is_seen_no_rows_give_none_and_bad_knobs_are_refused() -> None:
    assert math.isnan(shaped([math.nan, 1.0], [0.9, 0.9])[0][1])
    assert shaped([], [], mean=0.3) == ([], pytest.approx(0.3))
    for bad in ({"alpha": 1.5}, {"bound": 0.0}):
        with pytest.raises(SettingError, match="reward_sureness"):
            shaped([1.0], [0.5], **bad)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("It is 7. Confidence: 9", 0.9),
        ("confidence:10.", 1.0),
        ("**Confidence**: 3\nNo: Confidence: 4", 0.4),
        ("Confidence: 25", 1.0),
        ("Confidence: -3", 0.0),
        ("Confidence = 7.5", 0.75),
        ("I am sure.", 0.5),
        ("Confidence: high", 0.5),
        ("", 0.5),
        ("Confidence: " + "9" * 400, 1.0),
    ],
)
def test_the_last_statement_counts_cut_to_its_range(text: str, wanted: float) -> None:
    row = Rollout(Problem("p", "?"), (), (), (), text, "eos", ())
    assert stated_confidence(row.problem, row) == pytest.approx(wanted)


def test_the_range_is_a_knob_and_bad_ones_are_refused() -> None:
    row = Rollout(Problem("p", "?"), (), (), (), "Confidence: 80", "eos", ())
    assert stated_confidence(row.problem, row, top=100) == pytest.approx(0.8)
    for bad in ({"top": 0.0}, {"missing": 2.0}):
        with pytest.raises(SettingError, match="stated_confidence"):
            stated_confidence(row.problem, row, **bad)


def test_what_was_logged_becomes_the_knob_and_what_was_not_leaves_it() -> None:
    fold = carry(metric="m", setting="s.k")
    assert fold.update(fold.init(), line={"m": 0.5}) == ({}, {"s.k": 0.5})
    for line in ({}, {"m": math.nan}, {"other": 1.0}):
        assert fold.update(fold.init(), line=line) == ({}, {})


def test_the_loss_of_a_pairs_two_pairs_is_that_of_the_worked_example() -> None:
    # -log sigmoid(1.2 - 0.9) - log sigmoid(0.6 - 0.3) = 2 * ln(1 + e^-0.3) = 1.10871; log 2 each when all are equal.
    found = bradley_terry(torch.tensor([1.2, 0.6]), torch.tensor([0.9, 0.3]))
    assert float(found.sum()) == pytest.approx(1.10871, abs=1e-5)
    assert float(bradley_terry(torch.zeros(2), torch.zeros(2)).sum()) == pytest.approx(2 * math.log(2))


def test_each_side_is_paired_with_itself_and_the_better_statement_comes_first() -> None:
    good, bad = confidence_pairs(Pair("p", "?", "right", "wrong", {"k": 1}), high=8, low=1)
    assert (good.chosen, good.rejected) == ("right\nConfidence: 8", "right\nConfidence: 1")
    assert (bad.chosen, bad.rejected) == ("wrong\nConfidence: 1", "wrong\nConfidence: 8")
    assert good.meta == bad.meta == {"k": 1} and len({good.id, bad.id, "p"}) == 3
    with pytest.raises(SettingError, match="high=2"):
        confidence_pairs(good, high=2, low=2)


def test_the_reward_model_of_ppo_m_is_fitted_by_the_plain_loss() -> None:
    (form,) = build("ppo-m-reward-model")
    assert isinstance(form, Fit)
    (pair,) = members(form.pair)
    given_knobs = getattr(pair, "keywords", {})
    assert not given_knobs.get("centring") and not given_knobs.get("margin") and not given_knobs.get("smoothing")


@pytest.mark.parametrize("form", ["difference", "threshold"])
def test_two_steps_carry_the_mean_from_one_to_the_next(form: Any, tmp_path: Path) -> None:
    made = loop_with(ppo_m_ppo_c(form=form), steps=2, prompts=4, samples=4, eval_every=0, save_every=0)
    with RunFolder(tmp_path / "run") as held:
        lines = list(train(Setup(made, Policy.load("table"), make("bandit,level=50"), held), lambda: None))
    first, second = (line for line in lines if line["kind"] == "step")
    mean = first["set/reward.reward_sureness.mean"]
    assert mean == pytest.approx(0.1 * first["rewards/outcome/mean"]) and mean > 0
    wanted = 0.1 * second["rewards/outcome/mean"] + 0.9 * mean
    assert second["truegain/running_reward"] == pytest.approx(wanted, rel=1e-5)
