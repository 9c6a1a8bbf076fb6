"""Golden values derived by hand or by a slow oracle, and the properties that each statistic must have."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import stats

from truegain.core.errors import DataError, SettingError
from truegain.methods import evaluation as ev

A = np.array([[1.0, 0, 0, 1], [0, 0, 0, 0], [1, 1, 1, 1], [0, 0, 0, 0]])
B = np.array([[1.0, 1, 0, 1], [0, 0, 0, 0], [1, 1, 1, 1], [0, 1, 0, 0]])
S = np.array([[0.1, 0.5, 0.9], [0.2, 0.6, 0.8], [0.3, 0.4, 1.0], [0.0, 0.7, 0.7]])
S2 = S - np.array([0.05, 0.0, 0.1])


def test_student_t_agrees_with_scipy_for_whole_and_fractional_degrees_of_freedom():
    for df in (1.0, 1.7, 2.0, 3.5, 9.0, 40.0, 399.0, 1e5):
        for p in (0.005, 0.025, 0.3, 0.5, 0.9, 0.975, 0.9995):
            assert ev.student_t_quantile(p, df=df) == pytest.approx(stats.t.ppf(p, df), rel=1e-7, abs=1e-9)
        for t in (-5.0, -0.3, 0.0, 1.0, 12.0):
            assert ev.student_t_cdf(t, df=df) == pytest.approx(stats.t.cdf(t, df), rel=1e-9, abs=1e-13)


def test_student_t_refuses_a_probability_outside_the_unit_interval():
    for bad in (0.0, 1.0, -1.0):
        with pytest.raises(SettingError, match="probability"):
            ev.student_t_quantile(bad, df=3)


def test_pass_at_k_equals_the_share_of_subsets_with_a_right_sample():
    for n, c in ((8, 3), (5, 0), (5, 5), (6, 1)):
        samples = [1] * c + [0] * (n - c)
        for k in range(1, n + 1):
            subsets = list(itertools.combinations(samples, k))
            some, every = sum(map(any, subsets)) / len(subsets), sum(map(all, subsets)) / len(subsets)
            assert ev.pass_at_k(np.array([n]), np.array([c]), k=k)[0] == pytest.approx(some, abs=1e-12)
            assert ev.pass_hat_k(np.array([n]), np.array([c]), k=k)[0] == pytest.approx(every, abs=1e-12)


def test_pass_at_k_golden_values():
    # n=8, c=3: 3/8; 1 - C(5,2)/C(8,2) = 1 - 10/28; 1 - C(5,4)/C(8,4) = 1 - 5/70. All of 2: 3/28; of 3: 1/56.
    got = [ev.pass_at_k(np.array([8]), np.array([3]), k=k)[0] for k in (1, 2, 4)]
    assert got == pytest.approx([0.375, 18 / 28, 65 / 70], abs=1e-12)
    hat = [ev.pass_hat_k(np.array([8]), np.array([3]), k=k)[0] for k in (1, 2, 3)]
    assert hat == pytest.approx([0.375, 3 / 28, 1 / 56], abs=1e-12)


def test_pass_at_k_is_unbiased_where_the_plug_in_is_not():
    rng = np.random.default_rng(0)
    c = rng.binomial(10, 0.1, size=20_000)
    truth = 1 - 0.9**5
    assert ev.pass_at_k(np.full(c.size, 10), c, k=5).mean() == pytest.approx(truth, abs=0.005)
    assert (1 - (1 - c / 10) ** 5).mean() < truth - 0.05


def test_pass_at_k_does_not_overflow_for_many_samples_and_refuses_too_few():
    big = ev.pass_at_k(np.array([100_000]), np.array([1]), k=1000)[0]
    assert big == pytest.approx(0.01, rel=1e-9)  # one right sample of n is among k with probability k/n
    with pytest.raises(DataError, match="k=9"):
        ev.pass_at_k(np.array([8]), np.array([3]), k=9)
    with pytest.raises(DataError, match="between 0"):
        ev.pass_at_k(np.array([8]), np.array([9]), k=1)


def test_clustered_mean_golden_and_the_naive_error_is_smaller():
    got = ev.clustered_mean(B)
    # row means .75, 0, 1, .25: mean .5, variance (.0625 + .25 + .25 + .0625)/3 = .208333, se = sqrt(.208333/4).
    assert (got.value, got.se) == (0.5, pytest.approx(0.2282177, abs=1e-6))
    assert got.high - got.value == pytest.approx(stats.t.ppf(0.975, 3) * got.se)
    assert np.sqrt(0.25 / 16) == 0.125 < got.se


def test_paired_difference_golden():
    got = ev.paired_difference(A, B)
    # d = .25, 0, 0, .25: mean .125, variance 4 * .125^2 / 3 = .0208333, se = sqrt(.0208333/4) = .0721688.
    assert (got.value, got.se) == (0.125, pytest.approx(0.0721688, abs=1e-6))
    assert ev.sign_flip(ev.problem_means(B) - ev.problem_means(A)) == 0.5
    test = stats.ttest_rel(B.mean(axis=1), A.mean(axis=1)).confidence_interval(0.95)
    assert (got.low, got.high) == (pytest.approx(test.low), pytest.approx(test.high))


def test_an_abstained_sample_is_neither_right_nor_wrong():
    a = np.array([[1.0, np.nan, 0.0], [np.nan, np.nan, np.nan], [0.0, 0.0, 0.0]])
    b = np.array([[1.0, 1.0], [1.0, 1.0], [0.0, np.nan]])
    got = ev.paired_difference(a, b)
    assert (got.value, got.clusters, got.dropped) == (0.25, 2, 1)  # (1 - 1/2 + 0 - 0) / 2, the middle row is unknown


def test_swapping_the_models_flips_only_the_sign():
    one, two = ev.paired_difference(A, B), ev.paired_difference(B, A)
    assert (one.value, one.low, one.high) == (-two.value, -two.high, -two.low)


def test_identical_models_differ_by_exactly_zero():
    got = ev.paired_difference(A, A)
    assert (got.value, got.low, got.high, got.se) == (0.0, 0.0, 0.0, 0.0)
    assert ev.sign_flip(np.zeros(5)) == 1.0


def test_too_little_data_gives_no_interval_rather_than_a_narrow_one():
    one = ev.clustered_mean(np.array([[1.0, 0.0]]))
    assert one.value == 0.5 and math.isnan(one.low)
    none = ev.clustered_mean(np.full((2, 3), np.nan))
    assert math.isnan(none.value) and none.dropped == 2
    with pytest.raises(DataError, match="same problems"):
        ev.paired_difference(A, A[:2])


def test_sampled_sign_flips_agree_with_all_of_them():
    d = np.random.default_rng(3).normal(0.3, 1.0, size=12)
    assert ev.sign_flip(d, flips=4096) == pytest.approx(ev.sign_flip(d, flips=4000), abs=0.03)
    assert ev.sign_flip(np.ones(40)) > 0.0


def test_bca_interval_agrees_with_scipy():
    x = np.random.default_rng(5).exponential(size=60)
    ours = ev.cluster_bootstrap(x, reps=20_000)
    theirs = stats.bootstrap((x,), np.mean, n_resamples=20_000, method="BCa", rng=np.random.default_rng(1))
    assert (ours.low, ours.high) == pytest.approx(tuple(theirs.confidence_interval), abs=0.015)
    assert ours == ev.cluster_bootstrap(x, reps=20_000)


def test_bootstrap_of_equal_values_has_no_width_and_of_one_value_no_interval():
    same = ev.cluster_bootstrap(np.full(5, 0.25))
    assert (same.low, same.high) == (0.25, 0.25)
    assert math.isnan(ev.cluster_bootstrap(np.array([0.25, np.nan])).low)


def test_crossed_mean_golden():
    # run means .1, .3; problem means .1, .2, .3; rest: rows -+.05, 0, +-.05 -> E = 4 * .0025 / 2 = .005
    x = np.array([[0.05, 0.1, 0.15], [0.15, 0.3, 0.45]])
    got = ev.crossed_mean(x)
    a, b, e = 3 * 0.02, 2 * 0.01, 0.005
    v = (a + b - e) / 6
    df = v**2 / ((a / 6) ** 2 / 1 + (b / 6) ** 2 / 2 + (e / 6) ** 2 / 2)
    assert (got.value, got.se) == (pytest.approx(0.2), pytest.approx(math.sqrt(v)))
    assert got.high - got.value == pytest.approx(stats.t.ppf(0.975, df) * math.sqrt(v), rel=1e-6)


def test_crossed_mean_of_one_run_is_the_clustered_mean_and_widens_as_runs_differ():
    rng = np.random.default_rng(0)
    base = rng.normal(0.2, 0.3, size=(1, 200)) + rng.normal(0, 0.1, size=(5, 200))
    assert ev.crossed_mean(base[:1]) == ev.clustered_mean(base[:1].T)
    widths = []
    for spread in (0.0, 0.05, 0.2):
        got = ev.crossed_mean(base + spread * np.array([-1.0, -0.5, 0.0, 0.5, 1.0])[:, None])
        widths.append(got.high - got.low)
    assert widths[0] < widths[1] < widths[2] and widths[2] > 0.3


def test_crossed_mean_drops_a_problem_that_one_run_does_not_know():
    x = np.array([[0.1, np.nan, 0.3], [0.2, 0.5, 0.4]])
    got = ev.crossed_mean(x)
    assert (got.value, got.clusters, got.dropped) == (pytest.approx(0.25), 2, 1)


def test_interquartile_mean_and_probability_of_improvement_golden_values():
    assert float(ev.interquartile_mean(S)) == pytest.approx(0.533333, abs=1e-6)
    assert float(ev.interquartile_mean(S)) == pytest.approx(stats.trim_mean(S, 0.25, axis=None))
    assert float(ev.interquartile_mean(S, trim=0.0)) == pytest.approx(S.mean())
    assert float(ev.probability_of_improvement(S, S2)) == pytest.approx(0.604167, abs=1e-6)
    assert float(ev.probability_of_improvement(S, S)) == 0.5


def test_interquartile_mean_ignores_the_top_and_refuses_a_missing_score():
    raised = np.where(np.sort(S.ravel())[-2] <= S, 50.0, S)
    assert ev.interquartile_mean(raised) == ev.interquartile_mean(S)
    with pytest.raises(DataError, match="floor"):
        ev.interquartile_mean(np.array([[1.0, np.nan]]))


def test_stratified_bootstrap_keeps_each_task_to_its_own_runs():
    replicates = ev.stratified_bootstrap(S, reps=50, seed=2)
    for m in range(3):
        assert set(replicates[..., m].ravel()) <= set(S[:, m])
    assert np.array_equal(replicates, ev.stratified_bootstrap(S, reps=50, seed=2))
    assert len(np.unique(ev.stratified_bootstrap(S[:1], reps=50), axis=0)) == 1


def test_nested_bootstrap_pairs_problems_and_keeps_what_a_run_did_to_all_of_them():
    rng = np.random.default_rng(1)
    x = rng.random((1, 40))
    same = ev.nested_bootstrap([x], seed=1) - ev.nested_bootstrap([x + 0.1], seed=2)
    assert np.allclose(same, -0.1)  # the same problem draws: a constant shift stays constant
    runs = np.array([[0.0], [1.0]]) + np.zeros((2, 500))
    spread = ev.nested_bootstrap([runs]).mean(axis=1).std()
    assert spread == pytest.approx(math.sqrt(0.25 / 2), abs=0.03)  # problems cannot average a run's own effect away


def test_self_consistency_golden():
    ids = ev.answer_clusters(["12", " 12", None, "7", None, "12"])
    assert ids.tolist() == [0, 0, 1, 2, 3, 0]
    assert ev.self_consistency(ids).tolist() == [0.4, 0.4, 0.0, 0.0, 0.0, 0.4]
    with pytest.raises(DataError, match="two samples"):
        ev.self_consistency(ids[:1])


def test_calibration_golden():
    conf = np.array([0.95, 0.9, 0.85, 0.7, 0.65, 0.6, 0.55, 0.3])
    right = np.array([1.0, 1, 0, 1, 0, 1, 0, 0])
    got = ev.calibration(conf, right, np.arange(8), bins=4)
    # pairs: |.925-1|, |.775-.5|, |.625-.5|, |.425-0| = .075, .275, .125, .425; mean .225. Mean confidence .6875 - .5.
    assert got.ece.value == pytest.approx(0.225) and got.signed.value == pytest.approx(0.1875)
    shuffled = np.random.default_rng(0).permutation(8)
    assert ev.calibration(conf[shuffled], right[shuffled], shuffled, bins=4).ece.value == pytest.approx(0.225)
    assert ev.brier_score(np.array([0.9, 0.9, 0.6, 0.6, 0.6, 0.3]), np.array([1.0, 1, 1, 0, 1, 0])) == pytest.approx(
        (0.01 + 0.01 + 0.16 + 0.36 + 0.16 + 0.09) / 6
    )


def test_calibration_does_not_split_equal_confidences_and_takes_a_constant():
    constant = ev.calibration(np.full(10, 0.5), np.array([1.0] * 5 + [0.0] * 5), np.arange(10))
    assert len(constant.bins) == 1 and constant.ece.value == 0.0
    with pytest.raises(DataError, match="needs items"):
        ev.calibration(np.zeros(0), np.zeros(0), np.zeros(0, dtype=int))


@settings(max_examples=60, deadline=None)
@given(
    hnp.arrays(np.float64, st.integers(1, 30), elements=st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0])),
    st.integers(1, 8),
)
def test_calibration_error_lies_between_the_signed_gap_and_one(conf, bins):
    right = np.random.default_rng(0).integers(0, 2, conf.size).astype(float)
    got = ev.calibration(conf, right, np.arange(conf.size), bins=bins, reps=20)
    assert abs(got.signed.value) - 1e-12 <= got.ece.value <= 1.0
    assert got.ece.low <= got.ece.value <= got.ece.high
    assert sum(b.count for b in got.bins) == conf.size
    assert ev.calibration(right, right, np.arange(conf.size), bins=bins, reps=20).ece.value == 0.0


def test_length_matching_takes_away_a_gain_bought_by_length():
    # Both arms are right on 80 % of long and 20 % of short samples; b only writes long more often (3 of 4, not 1 of 4).
    def arm(short: int, long: int):
        tokens = np.repeat([10.0, 50.0], [short, long])
        right = np.concatenate([np.arange(short) % 5 == 0, np.arange(long) % 5 != 0]).astype(float)
        return tokens, right, np.arange(short + long)

    a, b = arm(300, 100), arm(100, 300)
    assert b[1].mean() - a[1].mean() == pytest.approx(0.3)
    got = ev.length_matched(*a, *b, strata=2)
    assert got.difference.value == pytest.approx(0.0) and got.covered == 1.0
    assert got.accuracy_a == got.accuracy_b == pytest.approx(0.5)  # half of the pooled samples are long


def test_length_matching_golden_weights_and_a_stratum_that_one_arm_lacks():
    # a: 1, 1, 5; b: 5, 5, 9. Each arm counts half: pooled share 1 -> 1/3, 5 -> 1/2, 9 -> 1/6; only 5 is common.
    p = np.arange(3)
    a = (np.array([1.0, 1.0, 5.0]), np.array([1.0, 1.0, 0.0]), p)
    b = (np.array([5.0, 5.0, 9.0]), np.array([1.0, 0.0, 1.0]), p)
    got = ev.length_matched(*a, *b, strata=6)
    assert got.covered == pytest.approx(0.5) and len(got.strata) == 3
    assert (got.accuracy_a, got.accuracy_b) == (0.0, 0.5)
    with pytest.raises(DataError, match="no sample"):
        ev.length_matched(*a, np.zeros(0), np.zeros(0), np.zeros(0, dtype=int))


def test_both_kl_estimates_are_unbiased_for_the_kl_of_the_sequence():
    # One token from {p} against {q}: KL = sum p log(p/q). Two independent tokens: twice that.
    p, q = np.array([0.7, 0.2, 0.1]), np.array([0.4, 0.4, 0.2])
    truth = 2 * float((p * np.log(p / q)).sum())
    tokens = np.random.default_rng(0).choice(3, p=p, size=(200_000, 2))
    got = ev.kl_estimate(np.log(p)[tokens], np.log(q)[tokens], np.ones_like(tokens, dtype=bool))
    assert got.k1.mean() == pytest.approx(truth, abs=0.005)
    assert got.k3.mean() == pytest.approx(truth, abs=0.005)
    assert got.k3.min() >= 0.0 and got.k3.var() < got.k1.var()


def test_masked_tokens_do_not_enter_the_kl():
    logp, ref = np.array([[0.0, -1.0, np.nan]]), np.array([[-1.0, -1.0, -2.0]])
    got = ev.kl_estimate(logp, ref, np.array([[True, True, False]]))
    assert got.k1.tolist() == [1.0] and got.k3[0] == pytest.approx(math.exp(-1))


def test_best_temperature_is_the_lowest_within_one_standard_error_of_the_best():
    # Four problems; means at T=0: 1 0 0 0, at T=.6: 1 1 0 0 (two samples), at T=1: 1 1 1 1. Against T=1, T=0 is behind
    # by .75 +- .25 and T=.6 by .5 +- .289: both are told apart. Without T=1, T=0 is behind T=.6 by .25 +- .25: not.
    t = np.repeat([0.0, 0.6, 1.0], [4, 8, 4])
    right = np.array([1, 0, 0, 0, 1, 1, 1, 1, 0, 0, 0, 0, 1, 1, 1, 1], dtype=float)
    problem = np.array([0, 1, 2, 3, 0, 0, 1, 1, 2, 2, 3, 3, 0, 1, 2, 3])
    assert ev.best_temperature(t, right, problem) == 1.0
    assert ev.best_temperature(t[:12], right[:12], problem[:12]) == 0.0


def test_best_temperature_weighs_problems_equally_leaves_abstentions_out_and_prefers_the_lower_on_a_tie():
    t, problem = np.array([0.0, 0.0, 0.6, 0.6, 0.6]), np.array([0, 1, 0, 0, 1])
    assert ev.best_temperature(t, np.array([1.0, 0, 1, 1, 0]), problem) == 0.0  # .5 both, though 2 of 3 samples at .6
    assert ev.best_temperature(t, np.array([np.nan, np.nan, 0, 0, 0.0]), problem) == 0.6
    with pytest.raises(DataError, match="abstentions"):
        ev.best_temperature(t, np.full(5, np.nan), problem)


def test_wilsons_interval_of_problems_that_are_all_right_or_all_wrong():
    # No variance seen: n is the number of problems, P = 8, t_7(0.975) = 2.364624: P / (P + t^2) = 8 / 13.591447.
    e = ev.proportion_mean(np.ones((1, 8)))
    assert (e.value, e.high) == (1.0, 1.0) and e.low == pytest.approx(0.588606, abs=1e-6)
    none = ev.proportion_mean(np.zeros((1, 8)))
    assert (none.value, none.low) == (0.0, 0.0) and none.high == pytest.approx(1 - e.low)


def test_wilsons_interval_golden_with_the_effective_sample_size():
    # Means 1, 0, 1, 1, .5, 1, .5, 1: p = .75, sd^2 = (5 x .0625 + .5625 + 2 x .0625) / 7 = 1/7, se^2 = 1/56,
    # n = .1875 x 56 = 10.5, t = 2.364624. t^2 = 5.591447: centre .75 + .266259 = 1.016259, scale 1.532519,
    # half 2.364624 sqrt(.017857 + .012679) = .413206.
    e = ev.proportion_mean(np.array([[1.0, 0, 1, 1, 0.5, 1, 0.5, 1]]))
    assert (e.value, e.se) == (0.75, pytest.approx(1 / math.sqrt(56)))
    assert (e.low, e.high) == (pytest.approx(0.393504, abs=1e-5), pytest.approx(0.932755, abs=1e-5))


@settings(max_examples=100, deadline=None)
@given(hnp.arrays(np.float64, st.tuples(st.integers(1, 4), st.integers(2, 9)), elements=st.sampled_from([0, 0.5, 1])))
def test_intervals_of_proportions_and_differences_stay_in_bounds_and_never_shrink_to_a_point(x):
    e, d = ev.proportion_mean(x), ev.difference_mean(2 * x - 1)
    assert 0.0 <= e.low <= e.value <= e.high <= 1.0 and e.high > e.low
    assert -1.0 <= d.low <= d.value <= d.high <= 1.0 and d.high > d.low
    flipped = ev.proportion_mean(1 - x)
    assert (flipped.low, flipped.high) == (pytest.approx(1 - e.high), pytest.approx(1 - e.low))


def test_a_score_that_is_no_proportion_is_refused():
    with pytest.raises(DataError, match="outside"):
        ev.proportion_mean(np.array([[0.5, 1.5]]))
    assert math.isnan(ev.proportion_mean(np.array([[0.5]])).low)
    assert ev.proportion_mean(np.array([[1.0, np.nan, 1.0]])).dropped == 1


def test_differences_without_variance_get_two_pairs_more():
    # d = 1, P = 8: m = .8, v = 9/10 - .64 = .26, se = sqrt(.026) = .161245, t = 2.364624: .8 - .381285.
    e = ev.difference_mean(np.ones((1, 8)))
    assert (e.value, e.high) == (1.0, 1.0) and e.low == pytest.approx(0.418715, abs=1e-5)
    zero = ev.difference_mean(np.zeros((2, 8)))  # v = .1, se = .1
    assert (zero.value, zero.high, zero.low) == (0.0, pytest.approx(0.236462, abs=1e-6), pytest.approx(-zero.high))
    varied = np.array([[0.1, 0.3, -0.2, 0.4]])
    assert ev.difference_mean(varied) == ev.crossed_mean(varied)


def test_matched_are_the_wrong_answers_that_the_other_arm_sets_as_many_problems_of_that_length_against():
    # a is wrong on 0 and 1 at length 9 and on 2 at 5, right on 0 at 5; b is right on 0 and 1 at 5 and on 2 at 9.
    # At 9 two wrong answers meet one problem of b: 1; at 5 one meets two: 1.
    a = (np.array([9.0, 9, 5, 5]), np.array([0.0, 0, 0, 1]), np.array([0, 1, 2, 0]))
    b = (np.array([5.0, 5, 9]), np.array([1.0, 1, 1]), np.array([0, 1, 2]))
    got = ev.length_matched(*a, *b, strata=9)
    assert (got.wrong, got.matched) == (3, 2)


def test_best_of_n_is_the_mean_over_all_subsets_with_ties_broken_at_random():
    rng = np.random.default_rng(0)
    proxy, gold = rng.integers(0, 4, (3, 7)).astype(float), rng.random((3, 7))
    proxy[0, 2] = np.nan  # an abstention ranks below every number

    def slow(p, g, n):
        total, count = 0.0, 0
        for subset in itertools.combinations(range(len(p)), n):
            keys = [-math.inf if math.isnan(p[i]) else p[i] for i in subset]
            best = [g[i] for i, key in zip(subset, keys, strict=True) if key == max(keys)]
            total, count = total + sum(best) / len(best), count + 1
        return total / count

    for n in range(1, 8):
        wanted = [slow(p, g, n) for p, g in zip(proxy, gold, strict=True)]
        assert ev.best_of_n(proxy, gold, n=n) == pytest.approx(np.array(wanted))


def test_best_of_one_is_the_mean_and_best_of_all_is_the_gold_of_the_top():
    # by hand: ranks 1, 2, 3 of three completions are picked among two with probability 0, 1/3, 2/3
    proxy, gold = np.array([[3.0, 1.0, 2.0]]), np.array([[0.0, 0.5, 1.0]])
    assert ev.best_of_n(proxy, gold, n=1) == pytest.approx([0.5])
    assert ev.best_of_n(proxy, gold, n=2) == pytest.approx([1 / 3])
    assert ev.best_of_n(proxy, gold, n=3) == pytest.approx([0.0])


def test_best_of_n_refuses_what_it_cannot_pick_among():
    x = np.ones((2, 3))
    for bad in (0, 4):
        with pytest.raises(DataError, match="must lie between"):
            ev.best_of_n(x, x, n=bad)
    with pytest.raises(DataError, match="not finite"):
        ev.best_of_n(x, np.full((2, 3), np.nan))
