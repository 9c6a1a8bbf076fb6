"""The verdict: what it says of runs whose truth is known, and when it says nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import report_runs as make

from truegain.core.errors import DataError
from truegain.methods import evaluation as ev
from truegain.report.build import build
from truegain.report.graphs import difference_rows, length_chart
from truegain.report.tables import interval
from truegain.report.verdict import LOSS, NONE, REAL, SHARPER, decide, sentence


def sharper(arm: str, temperature: float, difficulty: np.ndarray) -> np.ndarray:
    """Training does to the model what a low temperature does, and nothing else."""
    heat = 0.0 if arm == "trained" else temperature
    return 1 / (1 + np.exp(-(np.log(difficulty / (1 - difficulty)) + 1.2 * (1 - heat))))


def same(arm: str, temperature: float, difficulty: np.ndarray) -> np.ndarray:
    return make.better("base", temperature, difficulty)


def worse(arm: str, temperature: float, difficulty: np.ndarray) -> np.ndarray:
    return make.better("trained" if arm == "base" else "base", temperature, difficulty)


@pytest.mark.parametrize(
    ("best", "t1", "verdict"),
    [
        ((0.01, 0.3), (-0.2, -0.1), REAL),
        ((-0.3, -0.01), (0.1, 0.2), LOSS),
        ((-0.01, 0.05), (0.01, 0.2), SHARPER),
        # A real gain of 10 points is not excluded, so nothing says that a lower temperature does the same.
        ((-0.01, 0.3), (0.01, 0.2), NONE),
        ((-0.01, 0.3), (0.0, 0.2), NONE),
        ((0.0, 0.0), (0.0, 0.0), NONE),
        ((-0.3, 0.0), (-0.2, -0.1), NONE),
    ],
)
def test_the_rule(best, t1, verdict):
    pair = [{"low99": low, "high99": high, "mean": (low + high) / 2} for low, high in (best, t1)]
    assert decide(*pair) == verdict


def test_the_sentence_is_plain_and_holds_the_numbers():
    gain = {"mean": 0.218, "low": 0.171, "high": 0.265, "problems": 400}
    arms = {"base": {"best": {"mean": 0.412}}, "trained": {"best": {"mean": 0.630}}}
    assert sentence(REAL, {"gain": gain, "arms": arms}, 1) == (
        "Accuracy on 400 unseen problems rose from 41.2 % to 63.0 %, +21.8 points (95 % interval +17.1 to +26.5), each "
        "model at its own best temperature: a real gain."
    )


@pytest.mark.parametrize(("rates", "verdict"), [(make.better, REAL), (worse, LOSS), (sharper, SHARPER), (same, NONE)])
def test_a_known_truth_gets_its_verdict(tmp_path, rates, verdict):
    data = build(make.write_run(tmp_path / "run", rates=rates, problems=400, dev_problems=150, samples=4))
    assert data["verdict"] == verdict and data["reason"] is None
    assert data["sentence"].startswith("Accuracy on 400 unseen problems")


def test_the_gain_is_the_paired_clustered_difference_at_the_dev_chosen_temperatures(tmp_path):
    run = make.write_run(tmp_path / "run", test_temperature={"base": 0.6, "trained": 0.6}, temperatures=(0.6, 1.0))
    lines = [json.loads(line) for line in (run / "evals" / "records.jsonl").read_text().splitlines()]
    data = build(run)
    table: dict[str, np.ndarray] = {}
    for arm in ("base", "trained"):
        chosen = data["arms"][arm]["temperatures"][0]
        mine = [x for x in lines if x["arm"] == arm and x["split"] == "test" and x["temperature"] == chosen]
        table[arm] = np.array([x["gold"] for x in sorted(mine, key=lambda x: (x["problem"], x["sample"]))]).reshape(
            -1, 8
        )
    for level, low, high in ((0.95, "low", "high"), (0.99, "low99", "high99")):
        expected = ev.paired_difference(table["base"], table["trained"], level=level)
        got = data["gain"]
        assert (got["mean"], got[low], got[high]) == pytest.approx((expected.value, expected.low, expected.high))
    assert data["pass_at_k"]["arms"]["base"]["mean"][0] == pytest.approx(data["arms"]["base"]["t1"]["mean"])
    assert len(data["pass_at_k"]["k"]) == 8


def a_a(repeats: int, folder: Path, **sizes: Any) -> list[str]:
    """Verdicts of the whole page over independent repeats in which training did nothing."""
    verdicts: list[str] = []
    for seed in range(repeats):
        lines = make.records(same, seed=seed, problem_seed=seed, text=lambda arm, hit: "text", **sizes)
        make.write_lines(folder / "evals" / "records.jsonl", lines)
        verdicts.append(build(folder)["verdict"])
    return verdicts


def test_an_a_a_comparison_says_no_gain_in_at_least_95_of_100_repeats(tmp_path):
    sizes = {"problems": 50, "dev_problems": 25, "samples": 2, "temperatures": (0.0, 0.6, 1.0)}
    assert a_a(100, tmp_path, **sizes).count(NONE) >= 95


@pytest.mark.slow
def test_an_a_a_comparison_of_the_size_of_a_real_run_says_no_gain_in_at_least_95_of_100_repeats(tmp_path):
    sizes = {"problems": 400, "dev_problems": 200, "samples": 4, "temperatures": (0.0, 0.3, 0.6, 1.0)}
    assert a_a(100, tmp_path, **sizes).count(NONE) >= 95


def test_the_interval_over_seeds_widens_as_seeds_differ_and_says_how_it_was_made(tmp_path):
    widths = []
    for spread in (0.0, 0.15):
        folder = tmp_path / f"spread-{spread}"
        for s in range(4):

            def rates(arm: str, t: float, d: np.ndarray, shift: float = spread * (s - 1.5)) -> np.ndarray:
                return np.clip(make.better(arm, t, d) + (shift if arm == "trained" else 0.0), 0.01, 0.99)

            make.write_run(folder / f"seed-{s}", rates=rates, seed=s, problems=80, dev_problems=10, temperatures=(1.0,))
        data = build(folder)
        assert len(data["gain"]["per_run"]) == 4 and "runs" in data["gain"]["method"]
        assert data["gain"]["mean"] == pytest.approx(np.mean(data["gain"]["per_run"]))
        widths.append(data["gain"]["high"] - data["gain"]["low"])
    assert widths[1] > 1.5 * widths[0]
    assert "over 4 training runs" in data["sentence"] or data["verdict"] is None


def test_runs_on_different_problems_are_each_one_number():
    x = np.full((3, 30), np.nan)
    for s, value in enumerate((0.1, 0.2, 0.3)):
        x[s, 10 * s : 10 * s + 10] = value
    got, expected = interval(x), ev.clustered_mean(np.array([[0.1], [0.2], [0.3]]))
    assert (got["mean"], got["low"], got["problems"]) == (pytest.approx(0.2), pytest.approx(expected.low), 30)


def test_one_unfinished_seed_withholds_the_verdict_but_not_the_figures(tmp_path):
    for s in range(3):
        make.write_run(tmp_path / f"seed-{s}", seed=s, problems=30)
    (tmp_path / "seed-2" / "evals" / "records.jsonl").unlink()
    data = build(tmp_path)
    assert data["verdict"] is None and "seed-2: the base model has not been tested yet" in data["reason"]
    assert data["gain"]["mean"] is not None and len(data["gain"]["per_run"]) == 2


@pytest.mark.parametrize(
    ("keep", "reason"),
    [
        (lambda r: False, "the base model has not been tested yet"),
        (lambda r: r["arm"] == "base", "the trained model has not been tested yet"),
        (lambda r: r["split"] == "test", "no judged dev sample"),
        (lambda r: r["split"] == "dev" or r["temperature"] == 1.0, "which dev chose for it"),
        (lambda r: r["split"] == "dev" or r["temperature"] == 0.0, "was not tested at temperature 1"),
        (lambda r: r["split"] == "dev" or r["problem"] < "test-0007", "needs at least 8"),
        (
            lambda r: r["arm"] == "base" or r["split"] == "dev" or r["problem"] < "test-0060",
            "25.0 % of the test problems",
        ),
    ],
)
def test_what_cannot_be_judged_gets_no_verdict_and_a_reason(tmp_path, keep, reason):
    make.write_run(tmp_path, dev_problems=10)
    greedy = {"base": 0.0, "trained": 0.0}
    lines = [r for r in make.records(make.better, temperatures=(0.0, 1.0), test_temperature=greedy) if keep(r)]
    for r in lines:  # dev is made unanimous, so that it chooses temperature 0
        r["gold"] = 1.0 if r["split"] == "dev" else r["gold"]
    make.write_lines(tmp_path / "evals" / "records.jsonl", lines)
    data = build(tmp_path)
    assert data["verdict"] is None
    assert reason in data["reason"]
    assert data["sentence"].endswith(".") and "\n" not in data["sentence"]


def test_abstentions_are_counted_and_enter_no_mean(tmp_path):
    make.write_run(tmp_path, problems=40)
    lines = make.records(same, problems=40, temperatures=(1.0,), samples=4)
    hidden = 0
    for r in lines:
        if r["split"] == "test":
            r["gold"] = None if r["sample"] == 3 else 1.0
            hidden += r["sample"] == 3
    make.write_lines(tmp_path / "evals" / "records.jsonl", lines)
    data = build(tmp_path)
    assert data["arms"]["base"]["best"]["mean"] == 1.0
    assert data["arms"]["base"]["abstained"] + data["arms"]["trained"]["abstained"] == hidden == 80
    assert any("abstained on 25.0 %" in remark for remark in data["remarks"])
    assert data["pass_at_k"]["n"] == 3


def test_controls_stand_beside_the_trained_model_and_one_that_keeps_up_is_named(tmp_path):
    def rates(arm: str, t: float, d: np.ndarray) -> np.ndarray:
        return make.better("trained" if arm == "control:random-reward" else arm, t, d)

    arms = ("base", "trained", "control:more-sft", "control:random-reward")
    data = build(make.write_run(tmp_path / "run", rates=rates, arms=arms, problems=150, samples=4))
    assert list(data["arms"]) == ["base", "trained", "control:more-sft", "control:random-reward"]
    assert "gold traces" in data["arms"]["control:more-sft"]["note"]
    assert data["arms"]["base"]["trained_minus"]["mean"] == pytest.approx(data["gain"]["mean"])
    assert any("“Random reward”" in r and "does not show that the reward was needed" in r for r in data["remarks"])


def test_a_reward_that_is_the_exact_checker_is_said_to_leave_no_gap(tmp_path):
    data = build(make.write_run(tmp_path / "exact", problems=20))
    assert any("no gap between them can exist" in r for r in data["remarks"])
    data = build(make.write_run(tmp_path / "other", problems=20, honest=False))
    assert not any("no gap" in r for r in data["remarks"])
    assert any("please the reward" in r for r in data["remarks"])


def test_the_rises_of_reward_and_truth_are_compared_in_standard_deviations_whatever_the_rewards_unit(tmp_path):
    def gap(name: str, reward: Any) -> list[str]:
        data = build(make.write_run(tmp_path / name, problems=150, honest=False, reward=reward))
        return [r for r in data["remarks"] if "standard deviations" in r]

    # A reward that is the truth in other units rises by exactly as many deviations as the truth does.
    assert gap("scaled", lambda arm, hit: 1000.0 * hit - 7) == []
    small = gap("small", lambda arm, hit: 1e-3 * (hit + 4.0 * (arm == "trained")))
    large = gap("large", lambda arm, hit: 1e3 * (hit + 4.0 * (arm == "trained")))
    assert len(small) == len(large) == 1
    assert small[0].split(", which is ")[1] == large[0].split(", which is ")[1]
    # What does not vary in the base has no unit to be compared in.
    assert gap("flat", lambda arm, hit: float(arm == "trained")) == []


def test_where_wrong_answers_have_lengths_of_their_own_nothing_is_said_at_equal_length(tmp_path):
    folder = make.write_run(tmp_path / "run", problems=150, samples=4)
    file = folder / "evals" / "records.jsonl"
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    shown = build(folder)["length_matched"]
    assert shown["matched"] > 20 and shown["difference"]["low"] < shown["difference"]["high"]
    make.write_lines(file, [{**r, "tokens": 23 if r["gold"] else 40 if r["arm"] == "base" else 11} for r in lines])
    data = build(folder)
    assert data["length_matched"]["matched"] == 0 < data["length_matched"]["wrong"]
    assert data["length_matched"]["difference"] is None
    assert not any("length" in remark for remark in data["remarks"])
    assert "At equal length" not in [row.name for row in difference_rows(data)]
    assert "too few for a difference" in length_chart(data)


def test_accuracies_keep_an_interval_inside_0_and_1_when_everything_is_right_or_wrong(tmp_path):
    def certain(arm: str, t: float, d: np.ndarray) -> np.ndarray:
        return np.full(d.shape, float(arm == "trained"))

    data = build(make.write_run(tmp_path / "run", rates=certain, problems=60))
    base, trained = data["arms"]["base"]["best"], data["arms"]["trained"]["best"]
    assert base["low"] == 0.0 < base["high"] < 0.1
    assert 0.9 < trained["low"] < trained["high"] == 1.0
    assert trained["low99"] < trained["low"]
    assert 0.9 < data["gain"]["low"] < data["gain"]["high"] == 1.0 and data["verdict"] == REAL
    assert data["pass_at_k"]["arms"]["trained"]["low"][-1] > 0.9


def test_a_folder_without_a_run_is_refused_in_one_line(tmp_path):
    for path, words in ((tmp_path / "none", "does not exist"), (tmp_path, "holds no run")):
        with pytest.raises(DataError, match=words) as error:
            build(path)
        assert "\n" not in str(error.value)


def test_report_json_keys_that_others_rely_on(tmp_path):
    data = build(make.write_run(tmp_path / "run", problems=30))
    assert set(data["gain"]) >= {"mean", "low", "high"} and isinstance(data["gain"]["mean"], float)
    assert data["gain"]["low"] < data["gain"]["mean"] < data["gain"]["high"]
    assert data["verdict"] in (REAL, SHARPER, NONE, LOSS)
    json.dumps(data, allow_nan=False)
