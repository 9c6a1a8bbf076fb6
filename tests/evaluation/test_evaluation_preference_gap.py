"""Explicit against implicit reward models: the metric, the study on it, and the chain that trains both."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import truegain.recipes  # noqa: F401  (registers the systems)
from truegain.core.errors import DataError, WiringError
from truegain.core.forms import Fit
from truegain.core.settings import loop_with
from truegain.core.system import build
from truegain.methods.evaluation import preference_gap, reward_model_gap
from truegain.train.chain import Chain, check, execute
from truegain.train.launch import StopSignal

MARGINS = st.lists(st.tuples(st.floats(-3, 3), st.floats(-3, 3)), min_size=2, max_size=12)


def test_the_worked_example_of_the_catalog() -> None:
    gap, each = preference_gap(np.array([0.4, 0.1, -0.2, 0.3]), np.array([0.2, -0.1, -0.3, 0.1]))
    assert (gap.value, each["exrm_acc"].value, each["dporm_acc"].value) == (0.25, 0.75, 0.5)
    # differences 0, 1, 0, 0: sd 0.5, se 0.25, t with 3 degrees of freedom 3.182446
    assert (gap.low, gap.high) == pytest.approx((0.25 - 0.25 * 3.182446, 0.25 + 0.25 * 3.182446), abs=1e-5)


@given(MARGINS, st.floats(0.01, 10))
def test_the_gap_is_the_difference_of_shares_and_no_scale_changes_it(
    rows: list[tuple[float, float]], beta: float
) -> None:
    exrm, dporm = (np.array(side) for side in zip(*rows, strict=True))
    gap, each = preference_gap(exrm, dporm)
    right = [[1.0 if m > 0 else 0.5 if m == 0 else 0.0 for m in side] for side in zip(*rows, strict=True)]
    wanted = [sum(side) / len(rows) for side in right]
    assert [each["exrm_acc"].value, each["dporm_acc"].value] == pytest.approx(wanted)
    assert gap.value == pytest.approx(wanted[0] - wanted[1])
    # powers of two scale without rounding anything to 0
    assert preference_gap(exrm, dporm * 2.0 ** round(beta))[0].value == gap.value


def test_a_constant_per_prompt_changes_no_explicit_accuracy_and_an_untrained_model_is_right_half_the_time() -> None:
    rng = np.random.default_rng(0)
    chosen, rejected, level = rng.normal(size=(3, 20))
    moved = preference_gap((chosen + level) - (rejected + level), np.zeros(20))[1]
    assert moved["exrm_acc"].value == np.mean(chosen > rejected)
    assert moved["dporm_acc"].value == 0.5


def test_pairs_with_a_nan_are_dropped_from_both_and_counted_and_no_pairs_are_refused() -> None:
    gap, each = preference_gap(np.array([1.0, math.nan, 1.0, -1.0]), np.array([1.0, 1.0, math.nan, 1.0]))
    assert (gap.value, gap.dropped, each["exrm_acc"].value, each["dporm_acc"].value) == (-0.5, 2, 0.5, 1.0)
    with pytest.raises(DataError, match="same pairs"):
        preference_gap(np.ones(0), np.ones(0))


def test_a_study_without_one_of_the_two_models_is_refused() -> None:
    with pytest.raises(WiringError, match="'dporm'"):
        reward_model_gap([{}], {}, lambda rows: {"exrm": np.ones(1)})


def pairs(file: Path, count: int, better: str, worse: str) -> Path:
    rows = [{"prompt": f"say {n}:", "chosen": f"{better}{n}", "rejected": f"{worse}{n}"} for n in range(count)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def test_both_models_learn_the_same_pairs_and_the_record_tells_their_gap_on_every_set(tmp_path: Path) -> None:
    data, shifted = pairs(tmp_path / "d.jsonl", 16, "aa", "zz"), pairs(tmp_path / "shifted.jsonl", 4, "zz", "aa")
    forms = [loop_with(f, prompts=4) if isinstance(f, Fit) else f for f in build("dporm-vs-exrm", steps=8, lr=1e-3)]
    made = Chain(tuple(forms), "dporm-vs-exrm", tmp_path / "run", data=data, records=(shifted,))
    list(execute(made, StopSignal(say=lambda text: None)))
    left = [json.loads((tmp_path / f"run/{n}-fit/stage.json").read_text()) for n in (1, 2)]
    assert [stage["roles"] for stage in left] == [{"dporm": "model"}, {"exrm": "model"}]
    assert all(stage["policy"] is None for stage in left)
    record = json.loads((tmp_path / "run/3-study/record.json").read_text())
    # eight steps on one letter against another: both fit, and both are wrong where the letters are exchanged
    assert record["train"]["dporm_acc"][0] == record["train"]["exrm_acc"][0] == 1.0
    assert record["shifted"]["dporm_acc"][0] == record["shifted"]["exrm_acc"][0] == 0.0
    assert (record["train"]["pairs"], record["shifted"]["pairs"], record["mean_gap"]) == (16, 4, 0.0)


def test_forms_that_lack_data_or_the_reference_are_refused_before_training(tmp_path: Path) -> None:
    forms = build("dporm-vs-exrm")
    with pytest.raises(WiringError, match="--data FILE"):
        check(Chain(forms, "dporm-vs-exrm", tmp_path / "run"))
    data = pairs(tmp_path / "d.jsonl", 2, "a", "b")
    first = forms[0]
    assert isinstance(first, Fit)
    alone = replace(first, roles={"dporm": first.roles["dporm"]})
    with pytest.raises(WiringError, match=r"preference.dpo needs column 'chosen_ref_logp'.*'ref_logp'"):
        check(Chain((alone,), "x", tmp_path / "run", data=data))
    with pytest.raises(WiringError, match="no form before it trains"):
        check(Chain(forms[2:], "x", tmp_path / "run", data=data))
    with pytest.raises(DataError, match="no file"):
        check(Chain(forms, "x", tmp_path / "run", data=data, records=(tmp_path / "none",)))
