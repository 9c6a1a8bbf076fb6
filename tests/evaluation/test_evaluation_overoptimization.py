"""Best-of-n, the laws of over-optimisation, disagreement: golden values, brute force, properties."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import truegain.recipes  # noqa: F401  (registers the systems)
from truegain.core.errors import DataError
from truegain.core.forms import Measure
from truegain.core.system import build
from truegain.methods.evaluation import (
    best_of_n,
    best_of_n_kl,
    ensemble_disagreement,
    law_bon,
    law_rl,
    overoptimization_bon,
    overoptimization_rl,
)
from truegain.methods.evaluation._best_of_n import rank_weights

PROXY, GOLD = np.array([[0.0, 1.0, 2.0, 3.0]]), np.array([[0.0, 1.0, 2.0, -1.0]])


def test_best_of_n_is_as_derived_by_hand():
    # n = 2 of 4: ranks 2, 3, 4 are best in 1, 2, 3 of 6 draws: gold (1 + 2*2 - 3) / 6 = 1/3, proxy (1 + 4 + 9) / 6
    assert [float(best_of_n(PROXY, GOLD, n=n)[0]) for n in (1, 2, 4)] == pytest.approx([0.5, 1 / 3, -1.0])
    assert [float(best_of_n(PROXY, PROXY, n=n)[0]) for n in (1, 2, 4)] == pytest.approx([1.5, 14 / 6, 3.0])


@given(st.lists(st.tuples(st.integers(0, 4), st.floats(-5, 5)), min_size=1, max_size=7), st.data())
def test_best_of_n_is_the_mean_over_every_draw_with_ties_broken_by_chance(rows, data):
    n = data.draw(st.integers(1, len(rows)))
    score = np.array([[float(s) for s, _ in rows]])
    value = np.array([[v for _, v in rows]])
    total = 0.0
    draws = list(itertools.combinations(range(len(rows)), n))
    for draw in draws:
        top = max(rows[i][0] for i in draw)
        best = [rows[i][1] for i in draw if rows[i][0] == top]
        total += sum(best) / len(best)
    # Sharing a tie's weights over all equal rows is the same as breaking it by chance in each draw.
    assert float(best_of_n(score, value, n=n)[0]) == pytest.approx(total / len(draws), rel=1e-9, abs=1e-9)


@given(st.integers(1, 200), st.data())
def test_the_weights_sum_to_1_and_n_of_1_and_of_all_are_the_mean_and_the_best(total, data):
    n = data.draw(st.integers(1, total))
    weights = rank_weights(total, n)
    assert weights.sum() == pytest.approx(1.0)
    assert weights[n - 1 :] == pytest.approx(
        [math.comb(i - 1, n - 1) / math.comb(total, n) for i in range(n, total + 1)]
    )
    assert rank_weights(total, 1) == pytest.approx(np.full(total, 1 / total))
    assert rank_weights(total, total)[-1] == 1.0


def test_the_proxy_of_best_of_n_grows_with_n_and_large_pools_do_not_overflow():
    score = np.random.default_rng(0).normal(size=(1, 20_000))
    means = [float(best_of_n(score, score, n=n)[0]) for n in (1, 10, 100, 1000, 20_000)]
    assert means == sorted(means) and means[-1] == score.max()


@pytest.mark.parametrize("n", [0, 5])
def test_more_than_there_are_is_refused_and_a_score_that_is_nan_loses_to_all(n):
    with pytest.raises(DataError, match=f"n={n}"):
        best_of_n(PROXY, GOLD, n=n)
    assert best_of_n(np.array([[0.0, np.nan]]), np.array([[1.0, 5.0]]), n=2) == pytest.approx([1.0])  # it never wins


def test_the_kl_of_best_of_n_is_the_catalogs_and_grows():
    found = best_of_n_kl(np.array([1, 2, 4, 16, 256]))
    assert found == pytest.approx([0.0, 0.19315, 0.63629, 1.83509, 4.54908], abs=1e-5)
    assert (np.diff(found) > 0).all()
    with pytest.raises(DataError, match="1 or more"):
        best_of_n_kl(np.array([0]))


@given(st.floats(0.1, 5), st.floats(0.01, 2))
def test_noiseless_points_give_the_coefficients_back(alpha, beta):
    d = np.array([0.0, 0.5, 1.0, 2.0, 4.0])
    bon = overoptimization_bon(d, d * (alpha - beta * d))
    assert (bon.alpha, bon.beta) == pytest.approx((alpha, beta)) and bon.r2 == pytest.approx(1.0)
    assert (bon.peak, bon.at_peak) == pytest.approx((alpha / (2 * beta), alpha**2 / (4 * beta)))
    rl = overoptimization_rl(d, np.array([0.0, *(x * (alpha - beta * math.log(x)) for x in d[1:])]))
    assert (rl.alpha, rl.beta) == pytest.approx((alpha, beta), rel=1e-6)
    if alpha / beta < 100:
        assert rl.at_peak == pytest.approx(beta * math.exp(alpha / beta - 1), rel=1e-4)


def test_the_laws_and_their_peaks_are_the_catalogs():
    d = np.array([0.0, 1.0, 2.0, 4.0])
    bon = overoptimization_bon(d, np.array([0.0, 0.8, 1.2, 0.8]))
    assert (bon.peak, bon.at_peak) == pytest.approx((2.5, 1.25))
    rl = overoptimization_rl(d, np.array([0.0, 1.0, 1.44548, 1.78193]))
    assert (rl.peak, rl.at_peak) == pytest.approx((4.48169, 1.79268), abs=1e-3)
    assert law_bon(d, bon) == pytest.approx([0.0, 0.8, 1.2, 0.8])
    assert law_rl(d, rl) == pytest.approx([0.0, 1.0, 1.44548, 1.78193], abs=1e-4)


def test_gold_that_never_falls_has_no_peak():
    d = np.array([1.0, 2.0, 3.0])
    assert overoptimization_bon(d, d).peak == math.inf
    assert overoptimization_rl(d, d).at_peak == math.inf


def test_the_standard_errors_are_those_of_least_squares():
    rng = np.random.default_rng(0)
    d = np.linspace(0.1, 4, 60)
    found = [overoptimization_bon(d, d * (1 - 0.2 * d) + 0.1 * rng.normal(size=60)) for _ in range(400)]
    for name in ("alpha", "beta"):
        spread = np.std([getattr(f, name) for f in found])
        assert np.mean([getattr(f, f"{name}_se") for f in found]) == pytest.approx(spread, rel=0.1)


def test_too_few_points_and_negative_distances_are_refused():
    for d, r in (
        ([0.0, 1.0, 2.0], [0.0, 1.0, 2.0]),
        ([-1.0, 1.0, 2.0, 3.0], [0.0] * 4),
        ([1.0, 2.0, np.nan], [0.0] * 3),
    ):
        for law in (overoptimization_bon, overoptimization_rl):
            with pytest.raises(DataError):
                law(np.array(d), np.array(r))


def test_members_that_part_on_optimised_completions_are_seen():
    rng = np.random.default_rng(0)
    shared = rng.normal(size=(500, 1))
    base = shared + 0.2 * rng.normal(size=(500, 4))
    optimised = 3 + 0.2 * rng.normal(size=(100, 1)) + rng.normal(size=(100, 4))
    before, after = ensemble_disagreement(base, base), ensemble_disagreement(optimised, base)
    assert before.rank_correlation > 0.9 > 0.5 > after.rank_correlation
    assert after.difference > 2 * before.difference
    one = ensemble_disagreement(np.repeat(base[:, :1], 3, axis=1), np.repeat(base[:, :1], 3, axis=1))
    assert (one.rank_correlation, one.difference) == (1.0, 0.0)


def test_ranks_of_ties_are_their_mean_and_disagreement_is_as_derived_by_hand():
    # Ranks (0.5, 0.5, 2) and (0, 1, 2): covariance of (-.5, -.5, 1) and (-1, 0, 1) = 1.5; over sqrt(1.5 * 2)
    score = np.array([[1.0, 0.0], [1.0, 1.0], [2.0, 2.0]])
    found = ensemble_disagreement(score, np.array([[0.0, 0.0], [2.0, 2.0]]))
    assert found.rank_correlation == pytest.approx(1.5 / math.sqrt(3))
    assert found.difference == pytest.approx(1 / 3)  # deviation 1 on the base: |1-0|, 0, 0
    with pytest.raises(DataError, match="at least 2 members"):
        ensemble_disagreement(score[:, :1], score[:, :1])
    with pytest.raises(DataError, match="not finite"):
        ensemble_disagreement(np.array([[np.nan, 0.0], [0.0, 0.0]]), score)


def test_the_recipes_measure():
    for name in ("bon-kl", "gao-overoptimization-fits"):
        (form,) = build(name)
        assert isinstance(form, Measure)
