"""Simulations: intervals that count problems hold their level, those that count samples do not."""

from __future__ import annotations

import numpy as np
import pytest

from truegain.methods import evaluation as ev


def _a_a(rng: np.random.Generator, problems: int, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Two models of equal skill on two independent sets of problems whose difficulty is Beta(.5, .5)."""
    rates = rng.beta(0.5, 0.5, size=(2, problems, 1))
    draws = (rng.random((2, problems, k)) < rates).astype(float)
    return draws[0], draws[1]


def test_naive_intervals_over_samples_reject_a_true_null_far_more_often_than_clustered_ones():
    rng, repeats, problems, k = np.random.default_rng(0), 1000, 100, 8
    naive = clustered = 0
    for _ in range(repeats):
        a, b = _a_a(rng, problems, k)
        gap = b.mean() - a.mean()
        naive += abs(gap) > 1.96 * np.sqrt((a.mean() * (1 - a.mean()) + b.mean() * (1 - b.mean())) / (problems * k))
        clustered += abs(gap) > 1.96 * np.hypot(ev.clustered_mean(a).se, ev.clustered_mean(b).se)
    assert naive / repeats > 0.30  # about 38 %
    assert 0.03 <= clustered / repeats <= 0.08


def test_paired_clustered_interval_holds_its_level_when_problems_respond_differently_and_the_naive_one_does_not():
    rng, repeats, problems, k = np.random.default_rng(1), 800, 80, 8
    naive = clustered = 0
    for _ in range(repeats):
        rate = rng.beta(0.5, 0.5, size=(problems, 1))
        other = np.clip(rate + rng.choice([-0.3, 0.3], size=(problems, 1)) * (rate > 0.3) * (rate < 0.7), 0, 1)
        a, b = (rng.random((problems, k)) < rate).astype(float), (rng.random((problems, k)) < other).astype(float)
        got = ev.paired_difference(a, b)
        clustered += not got.low <= 0 <= got.high
        naive += abs((b - a).mean()) > 1.96 * (b - a).std() / np.sqrt(problems * k)
    assert 0.03 <= clustered / repeats <= 0.075 < naive / repeats


def test_interval_over_runs_and_problems_covers_where_pooling_the_runs_does_not():
    rng, repeats, runs, problems = np.random.default_rng(2), 600, 5, 60
    crossed = pooled = 0
    for _ in range(repeats):
        x = (
            0.2
            + rng.normal(0, 0.1, (runs, 1))
            + rng.normal(0, 0.3, (1, problems))
            + rng.normal(0, 0.3, (runs, problems))
        )
        whole, flat = ev.crossed_mean(x), ev.clustered_mean(x.T)
        crossed += whole.low <= 0.2 <= whole.high
        pooled += flat.low <= 0.2 <= flat.high
    assert 0.92 <= crossed / repeats <= 0.99
    assert pooled / repeats < 0.88


def test_bca_interval_covers_the_mean_of_skewed_problem_values():
    rng = np.random.default_rng(3)
    hits = 0
    for i in range(300):
        got = ev.cluster_bootstrap(rng.beta(0.3, 1.0, size=60), reps=800, seed=i)
        hits += got.low <= 0.3 / 1.3 <= got.high
    assert 0.90 <= hits / 300 <= 0.985


def test_bootstrap_over_runs_and_problems_covers_the_true_interquartile_mean():
    rng, hits = np.random.default_rng(4), 0
    for i in range(200):
        scores = rng.normal(size=(10, 20))
        low, high = np.quantile(
            ev.interquartile_mean(ev.stratified_bootstrap(scores, reps=400, seed=i)), [0.025, 0.975]
        )
        hits += low <= 0.0 <= high
    assert 0.87 <= hits / 200 <= 0.99


def test_probability_of_improvement_estimates_the_known_probability():
    rng = np.random.default_rng(5)
    x, y = rng.normal(1.0, 1.0, (200, 30)), rng.normal(0.0, 1.0, (200, 30))
    assert float(ev.probability_of_improvement(x, y)) == pytest.approx(0.760, abs=0.02)
    assert float(ev.probability_of_improvement(x, y) + ev.probability_of_improvement(y, x)) == pytest.approx(1.0)


def test_calibration_error_of_perfect_confidence_is_not_zero_but_its_signed_gap_covers_zero():
    rng, eces, covered = np.random.default_rng(6), [], 0
    for i in range(100):
        conf = rng.random(200)
        got = ev.calibration(conf, (rng.random(200) < conf).astype(float), np.arange(200), bins=15, reps=200, seed=i)
        eces.append(got.ece.value)
        covered += got.signed.low <= 0 <= got.signed.high
    assert np.mean(eces) > 0.04
    assert covered / 100 >= 0.87


def _highest(temperature: np.ndarray, correct: np.ndarray, problem: np.ndarray) -> float:
    """The rule that `best_temperature` avoids: the temperature with the highest dev accuracy."""
    return max(np.unique(temperature).tolist(), key=lambda t: correct[temperature == t].mean())


def test_choosing_the_highest_dev_accuracy_finds_differences_between_a_model_and_itself_and_the_rule_does_not():
    rng, repeats, dev, test = np.random.default_rng(7), 120, 100, 1000
    found = {_highest: 0, ev.best_temperature: 0}
    for _ in range(repeats):
        ease = [np.log(d / (1 - d))[:, None] for d in (rng.beta(1.2, 1.6, size=dev), rng.beta(1.2, 1.6, size=test))]
        for choose in found:
            arms: list[np.ndarray] = []
            for _arm in range(2):
                rows = []
                for t in (0.0, 0.3, 0.6, 1.0):
                    k = 1 if t == 0 else 8
                    right = (rng.random((dev, k)) < 1 / (1 + np.exp(-(ease[0] + 1 - t)))).astype(float)
                    rows.append((np.full(right.size, t), right.ravel(), np.repeat(np.arange(dev), k)))
                best = choose(*(np.concatenate(column) for column in zip(*rows, strict=True)))
                rate = 1 / (1 + np.exp(-(ease[1] + 1 - best)))
                arms.append((rng.random((test, 1 if best == 0 else 8)) < rate).astype(float))
            gap = ev.paired_difference(arms[0], arms[1], level=0.99)
            found[choose] += not gap.low <= 0 <= gap.high
    assert found[_highest] / repeats > 0.10
    assert found[ev.best_temperature] / repeats <= 0.05
