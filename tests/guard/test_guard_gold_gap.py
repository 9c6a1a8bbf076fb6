"""The guard's test: exact e-values, a level that holds over endless looks at the same problems, and what it can see."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from truegain.core.errors import DataError, SettingError
from truegain.core.system import build
from truegain.methods.guard import (
    GapLook,
    gap_evidence,
    gold_gap,
    gold_gap_of_means,
    judge_look,
    mean_evidence,
    spent_level,
)
from truegain.methods.guard._gap_evidence import BETS
from truegain.methods.guard._mean_evidence import TILTS

UNIT = st.floats(0, 1)


def array(*values: float) -> np.ndarray:
    return np.array(values, dtype=float)


def wealth_oracle(reference: Sequence[float], now: Sequence[float], margin: float) -> float:
    """The formula, term by term, in plain Python."""
    total = 0.0
    for bet in BETS.tolist():
        product = 1.0
        for before, after in zip(reference, now, strict=True):
            if not (math.isnan(before) or math.isnan(after)):
                product *= 1 + bet * (before - after - margin) / (1 + margin)
        total += product / len(BETS)
    return math.log(total)


def mean_oracle(reference: float, now: float, n: int, margin: float) -> float:
    """The least of the evidence over a fine grid, in plain Python."""

    def log_g(mean: float, most: float) -> float:
        terms = [n * (c * mean - math.log(1 - most + most * math.exp(c))) for c in TILTS.tolist()]
        top = max(terms)
        return top + math.log(sum(math.exp(t - top) for t in terms) / len(terms))

    cells = [k / 20_000 for k in range(20_001)]
    return min(log_g(reference, m) + log_g(1 - now, min(max(1 - m + margin, 0.0), 1.0)) for m in cells) / 2


# The evidence


def test_the_evidence_is_the_mean_wealth_over_the_bets() -> None:
    # One problem that fell from 1 to 0: K(b) = 1 + b. The bets 0.02, 0.05, 0.1 .. 0.9 have mean 4.57 / 11 = 0.41545.
    assert gap_evidence(array(1.0), array(0.0)) == pytest.approx(math.log(1.4154545))
    # With a margin of a half: K(b) = 1 + b (1 - 0.5) / 1.5 = 1 + b / 3, so 1 + 0.1384848.
    assert gap_evidence(array(1.0), array(0.0), margin=0.5) == pytest.approx(math.log(1.1384848))


@given(st.lists(st.tuples(UNIT | st.just(math.nan), UNIT), min_size=1, max_size=300), st.floats(-0.9, 0.9))
def test_the_evidence_agrees_with_the_formula_term_by_term(pairs: list[tuple[float, float]], margin: float) -> None:
    before, after = (list(side) for side in zip(*pairs, strict=True))
    found = gap_evidence(array(*before), array(*after), margin=margin)
    assert found == pytest.approx(wealth_oracle(before, after, margin), abs=1e-9, rel=1e-9)


@given(st.lists(st.tuples(UNIT, UNIT), min_size=1, max_size=40), st.randoms(use_true_random=False))
def test_the_order_of_the_problems_does_not_matter(pairs: list[tuple[float, float]], random: object) -> None:
    mixed = sorted(pairs, key=lambda _: random.random())  # type: ignore[attr-defined]
    found = [gap_evidence(array(*(a for a, _ in some)), array(*(b for _, b in some))) for some in (pairs, mixed)]
    assert found[0] == pytest.approx(found[1], abs=1e-9)


@given(st.lists(st.tuples(UNIT, UNIT), min_size=1, max_size=40), st.floats(-0.8, 0.8), st.floats(0, 0.1))
def test_a_larger_margin_never_makes_more_evidence(
    pairs: list[tuple[float, float]], margin: float, more: float
) -> None:
    before, after = array(*(a for a, _ in pairs)), array(*(b for _, b in pairs))
    assert gap_evidence(before, after, margin=margin + more) <= gap_evidence(before, after, margin=margin) + 1e-9
    low, high = (mean_evidence(before.mean(), after.mean(), 30, margin=m) for m in (margin + more, margin))
    assert low <= high + 1e-9


def expectation(chances: Sequence[tuple[float, float]], value: Callable[[np.ndarray, np.ndarray], float]) -> float:
    """The exact mean of ``value`` over 0/1 scores, each problem with its own chance at both looks."""
    total = 0.0
    for scores in itertools.product((0.0, 1.0), repeat=2 * len(chances)):
        before, after = array(*scores[::2]), array(*scores[1::2])
        odds = 1.0
        for (first, second), b, a in zip(chances, before, after, strict=True):
            odds *= (first if b else 1 - first) * (second if a else 1 - second)
        total += odds * value(before, after)
    return total


FIXED = {
    "all alike": [(0.5, 0.5)] * 4,
    "easy and hard ones": [(0.1, 0.1), (0.9, 0.9), (0.5, 0.5), (0.99, 0.99)],
    "some fell and others rose as much": [(0.9, 0.1), (0.1, 0.9), (0.7, 0.2), (0.2, 0.7)],
    "one rose by what three fell": [(0.5, 0.3), (0.5, 0.3), (0.5, 0.3), (0.1, 0.7)],
}


@pytest.mark.parametrize("name", FIXED)
def test_the_exact_mean_of_the_e_value_is_at_most_one_where_gold_did_not_fall(name: str) -> None:
    paired = expectation(FIXED[name], lambda before, after: math.exp(gap_evidence(before, after)))
    means = expectation(FIXED[name], lambda b, a: math.exp(mean_evidence(b.mean(), a.mean(), len(b))))
    assert paired <= 1 + 1e-12
    assert means <= 1 + 1e-12
    # Not empty: the mean is that of a bet, not of nothing.
    assert paired > 0.3


def test_the_e_value_of_means_holds_whatever_joins_the_two_looks() -> None:
    # One problem whose completions are tied: it is right before exactly where it is wrong now, or right in both.
    for tie in ({(1, 0): 0.5, (0, 1): 0.5}, {(1, 1): 0.5, (0, 0): 0.5}):
        n, total = 6, 0.0
        for picks in itertools.product(tie.items(), repeat=n):
            odds = math.prod(weight for _, weight in picks)
            before, after = (np.mean([pair[side] for pair, _ in picks]) for side in (0, 1))
            total += odds * math.exp(mean_evidence(float(before), float(after), n))
        assert total <= 1 + 1e-12


@pytest.mark.parametrize(
    ("before", "after", "n", "margin"), [(0.6, 0.3, 200, 0), (0.95, 0.85, 400, 0.02), (0.2, 0.4, 50, 0)]
)
def test_the_evidence_of_means_is_never_above_the_formula_and_close_below(
    before: float, after: float, n: int, margin: float
) -> None:
    found, exact = mean_evidence(before, after, n, margin=margin), mean_oracle(before, after, n, margin)
    assert exact - 0.2 <= found <= exact + 1e-9


@given(st.integers(20, 200), st.integers(0, 10_000))
def test_means_alone_never_show_more_than_twice_what_the_scores_show(n: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    before, after = (rng.random(n) < 0.8) * 1.0, (rng.random(n) < 0.3) * 1.0
    assert mean_evidence(before.mean(), after.mean(), n) < 2 * max(gap_evidence(before, after), 1)


def test_what_is_unknown_is_not_bet_on() -> None:
    nan = math.nan
    assert gap_evidence(array(1, nan, 1), array(0, 0, nan)) == pytest.approx(gap_evidence(array(1), array(0)))
    assert gap_evidence(array(nan), array(0)) == pytest.approx(0, abs=1e-12)
    assert gap_evidence(array(), array()) == pytest.approx(0, abs=1e-12)
    assert mean_evidence(nan, 0.5, 100) == 0


def test_scores_out_of_bounds_and_settings_out_of_bounds_are_refused() -> None:
    with pytest.raises(DataError, match=r"outside \[0, 1\]"):
        gap_evidence(array(1.5), array(0))
    with pytest.raises(SettingError, match="margin"):
        gap_evidence(array(1), array(0), margin=1.0)
    with pytest.raises(DataError, match="problems"):
        mean_evidence(0.5, 0.5, 0)
    for wrong in ({"level": 0.0}, {"level": 1.0}, {"horizon": 0}):
        with pytest.raises(SettingError, match="spent_level"):
            spent_level(1, **wrong)


# The looks


@given(st.integers(1, 200), st.floats(0.001, 0.5))
def test_endless_looks_never_spend_more_than_the_level(horizon: int, level: float) -> None:
    spent = sum(spent_level(look, level=level, horizon=horizon) for look in range(1, 2000))
    # The rest, from look 2000 on, is level * horizon / (horizon + 1999): the sum telescopes.
    assert spent + level * horizon / (horizon + 1999) == pytest.approx(level)


def looks_of(table: np.ndarray, proxy: Sequence[float] | None = None, **knobs: float) -> tuple[GapLook, ...]:
    """`gold_gap` of scores [T, P] in the long form that records have."""
    count, problems = table.shape
    told = np.arange(count) if proxy is None else np.array(proxy)
    return gold_gap(
        table.ravel(), np.repeat(told.astype(float), problems), np.repeat(np.arange(count) * 10.0, problems),
        np.tile(np.arange(float(problems)), count), **knobs,
    ).looks  # fmt: skip


def test_two_looks_by_hand() -> None:
    # Three problems, all right and then all wrong. One reference, so K = mean over bets of (1 + b)^3; means over 2 and
    # 4 looks do not fit yet and count as 1. The first tested look spends 0.05 * 20 / (20 * 21) = 1 / 420.
    first, second = looks_of(np.array([[1.0, 1, 1], [0, 0, 0]]))
    expected = math.log((np.mean((1 + BETS) ** 3) + 1 + 1) / 3)
    assert (first.evidence, first.alarm, first.best, first.low) == (0, False, 0, 0.0)
    assert (second.gold, second.gap, second.best) == (0, 1, 0)
    assert second.evidence == pytest.approx(expected)
    assert second.needed == pytest.approx(math.log(420))
    assert not second.alarm


def look_oracle(table: np.ndarray) -> float:
    """The evidence at the last look by the formula: windows, references, bets and problems one by one."""
    count, problems = table.shape
    total = 0.0
    for width in (1, 2, 4):
        now = [float(np.mean(table[count - width :, p])) for p in range(problems)]
        found = []
        for end in range(width, count - width + 1):
            was = [float(np.mean(table[end - width : end, p])) for p in range(problems)]
            found.append(math.exp(wealth_oracle(was, now, 0.0)))
        total += (sum(found) / len(found) if found else 1.0) / 3
    return math.log(total)


@given(st.integers(2, 9), st.integers(1, 6), st.integers(0, 999))
def test_the_evidence_of_a_look_is_the_formula_over_windows_and_references(
    count: int, problems: int, seed: int
) -> None:
    table = np.random.default_rng(seed).random((count, problems))
    assert looks_of(table)[-1].evidence == pytest.approx(look_oracle(table), abs=1e-9)


def test_an_alarm_names_the_best_look_and_whether_the_proxy_rose() -> None:
    fell = np.concatenate([np.full((1, 40), 0.4), np.full((2, 40), 0.9), np.full((1, 40), 0.1)])
    rising, falling = looks_of(fell, [0, 1, 2, 3]), looks_of(fell, [0, 2, 1, 1])
    assert [look.alarm for look in rising] == [False, False, False, True]
    assert (rising[-1].kind, rising[-1].best, falling[-1].kind) == ("divergence", 10, "fall")
    assert rising[-1].gap == pytest.approx(0.8)
    unknown = looks_of(fell, [math.nan] * 4)
    assert (unknown[-1].alarm, unknown[-1].kind) == (True, "unknown")
    assert looks_of(fell, [0, math.nan, math.nan, 1])[-1].kind == "unknown"
    assert looks_of(fell, [0, 1, 1, math.nan])[-1].kind == "unknown"


def test_the_lower_bound_is_above_zero_exactly_at_an_alarm() -> None:
    rng = np.random.default_rng(3)
    chance = np.r_[np.linspace(0.3, 0.8, 8), np.linspace(0.75, 0.2, 8)]
    looks = looks_of((rng.random((16, 100)) < chance[:, None]) * 1.0)
    assert any(look.alarm for look in looks) and not all(look.alarm for look in looks)
    for look in looks:
        assert look.alarm or look.low == 0
        # Where the evidence only just suffices, the bound is below a thousandth and is 0.
        assert not look.alarm or look.low > 0 or look.evidence < look.needed + 0.1
        assert look.low <= 0.8 - 0.2
    # With a margin of what is known, the alarm goes off where the fall is known to be larger.
    known = looks_of((np.random.default_rng(3).random((16, 100)) < chance[:, None]) * 1.0, margin=0.1)
    assert {look.step for look in known if look.alarm} == {look.step for look in looks if look.low >= 0.1}


def test_rows_in_any_order_and_several_samples_of_a_problem_give_the_same_looks() -> None:
    rng = np.random.default_rng(1)
    gold, step = rng.integers(0, 2, 120) * 1.0, np.repeat([0.0, 5.0, 9.0], 40)
    problem = np.tile(np.repeat(np.arange(20.0), 2), 3)
    order = rng.permutation(120)
    proxy = step / 10
    assert gold_gap(gold, proxy, step, problem) == gold_gap(gold[order], proxy[order], step[order], problem[order])
    means = gold.reshape(3, 20, 2).mean(axis=2)
    every = gold_gap(gold, proxy, step, problem).looks
    one = gold_gap(means.ravel(), np.repeat([0.0, 0.5, 0.9], 20), np.repeat([0.0, 5.0, 9.0], 20), problem[::2])
    assert [look.evidence for look in one.looks] == pytest.approx([look.evidence for look in every])


def test_a_look_at_which_nothing_could_be_scored_neither_alarms_nor_is_best() -> None:
    table = np.array([[1.0] * 30, [math.nan] * 30, [0.0] * 30])
    looks = looks_of(table)
    assert math.isnan(looks[1].gold) and math.isnan(looks[1].gap) and not looks[1].alarm
    assert looks[1].best == 0
    assert looks[2].alarm
    empty = gold_gap(array(), array(), array(), array())
    assert (empty.first, empty.best, empty.looks) == (None, None, ())


def test_a_checker_that_crashes_raises_no_alarm_whatever_the_looks_before_it_were() -> None:
    # Five looks of 0.9 and one of 0.66 at 128 problems, and then none: over the last two or four looks gold has fallen,
    # but that is no news of the look that was not scored.
    found = 0
    for seed in range(60):
        rng = np.random.default_rng(seed)
        table = (rng.random((7, 128)) < np.r_[np.full(5, 0.9), 0.66, 0.0][:, None]) * 1.0
        table[6] = math.nan
        looks = looks_of(table)
        assert (looks[6].alarm, looks[6].evidence, looks[6].low, looks[6].kind) == (False, 0.0, 0.0, "")
        # The fall is not forgotten: the look is scored again, and it is seen.
        found += seed < 10 and looks_of(np.r_[table, table[5:6]])[-1].alarm
    assert found > 5


def test_what_a_hold_out_does_not_tell_raises_an_alarm_all_the_same() -> None:
    table = np.concatenate([np.ones((3, 40)), np.zeros((1, 40))])
    looks: list[GapLook] = []
    for n, row in enumerate(table):
        looks.append(judge_look(looks, n, row, 0.0, table[:n], told=math.nan))
    assert looks[-1].alarm and math.isnan(looks[-1].gold)


def test_one_look_after_the_other_says_what_all_at_once_say() -> None:
    rng = np.random.default_rng(5)
    table = (rng.random((9, 50)) < np.linspace(0.9, 0.3, 9)[:, None]) * 1.0
    looks: list[GapLook] = []
    for n, row in enumerate(table):
        looks.append(judge_look(looks, n * 10, row, float(n), table[:n]))
    assert tuple(looks) == looks_of(table)


def test_of_means_alone_a_fall_has_to_be_larger() -> None:
    step = np.arange(6.0)
    gold = array(0.3, 0.5, 0.6, 0.6, 0.45, 0.1)
    found = gold_gap_of_means(gold, step, step, problems=200)
    assert [look.alarm for look in found.looks] == [False] * 5 + [True]
    assert (found.first, found.best) == (5, 2)
    assert gold_gap_of_means(np.r_[gold, math.nan], np.r_[step, 6], np.r_[step, 6], problems=200) == found
    assert gold_gap_of_means(gold, step, step, problems=20).first is None
    assert gold_gap_of_means(array(), array(), array()).looks == ()
    with pytest.raises(DataError, match="problems"):
        gold_gap_of_means(gold, step, step, problems=0)


# The level and the power


def scores(rng: np.random.Generator, mean: np.ndarray, problems: int, spread: float, sticky: float) -> np.ndarray:
    """0/1 scores [T, P] at the same problems: they differ by ``spread`` in difficulty and keep their luck ``sticky``.

    The population mean of look t is ``mean[t]`` (a logistic-free construction: a uniform per problem and look is
    compared with it). ``sticky`` is the chance that a problem's draw is that of the look before.
    """
    own = rng.random(problems)
    table = np.empty((len(mean), problems))
    draw = rng.random(problems)
    for t, chance in enumerate(mean):
        fresh = np.where(rng.random(problems) < spread, own, rng.random(problems))
        draw = np.where(rng.random(problems) < sticky, draw, fresh)
        table[t] = draw < chance
    return table


HEALTHY = {
    "flat": (np.full(12, 0.5), 0.5, 0.0),
    "flat, the same problems solved again": (np.full(12, 0.5), 0.9, 0.0),
    "flat and sticky": (np.full(12, 0.3), 0.3, 0.8),
    "rising": (np.linspace(0.2, 0.6, 12), 0.5, 0.0),
    "rising to a plateau near one": (np.minimum(np.linspace(0.5, 1.2, 12), 0.97), 0.5, 0.0),
}


def alarms(name: str, runs: int, problems: int, of_means: bool = False, level: float = 0.05, every: int = 1) -> float:
    mean, spread, sticky = HEALTHY[name]
    mean = mean[::every]
    count, step = 0, np.arange(float(len(mean)))
    for seed in range(runs):
        table = scores(np.random.default_rng(seed), mean, problems, spread, sticky)
        if of_means:
            looks = gold_gap_of_means(table.mean(axis=1), step, step, problems=problems, level=level).looks
        else:
            looks = looks_of(table, level=level)
        count += any(look.alarm for look in looks)
    return count / runs


@pytest.mark.parametrize("name", ["flat", "rising"])
def test_healthy_runs_raise_fewer_false_alarms_than_the_level(name: str) -> None:
    assert alarms(name, 200, 50, every=2) <= 0.05


@pytest.mark.parametrize(("horizon", "level"), [(1, 0.5), (7, 0.05), (30, 0.3)])
def test_each_look_needs_what_its_own_share_of_the_level_asks_and_all_shares_are_the_level(
    horizon: int, level: float
) -> None:
    looks = looks_of(np.full((8, 2), 0.5), horizon=horizon, level=level)
    shares = [math.exp(-look.needed) for look in looks[1:]]
    # The shares of looks 1 to 7, level * h / ((h + t - 1) (h + t)), telescope: level * (1 - h / (h + 7)).
    assert sum(shares) == pytest.approx(level * 7 / (horizon + 7))
    assert shares == sorted(shares, reverse=True)
    means = gold_gap_of_means(np.full(8, 0.5), np.arange(8.0), np.arange(8.0), horizon=horizon, level=level).looks
    assert [look.needed for look in means] == [look.needed for look in looks]


def long_runs(runs: int, level: float) -> float:
    """The share of flat runs of 60 looks at 48 problems with an alarm."""
    found = 0
    for seed in range(runs):
        table = scores(np.random.default_rng(seed), np.full(60, 0.5), 48, 0.0, 0.0)
        looks: list[GapLook] = []
        while len(looks) < len(table) and not (looks and looks[-1].alarm):
            looks.append(judge_look(looks, len(looks), table[len(looks)], 0.0, table[: len(looks)], level=level))
        found += looks[-1].alarm
    return found / runs


@pytest.mark.slow
def test_a_long_run_keeps_the_level_only_because_its_looks_share_it(monkeypatch: pytest.MonkeyPatch) -> None:
    assert long_runs(40, 0.3) <= 0.3
    # Were every look tested at the whole level, most runs would raise an alarm: this null would show it.
    monkeypatch.setattr("truegain.methods.guard._gold_gap.spent_level", lambda look, *, level, horizon: level)
    assert long_runs(40, 0.3) > 0.5


@pytest.mark.slow
@pytest.mark.parametrize("name", HEALTHY)
@pytest.mark.parametrize("level", [0.05, 0.3])
def test_two_thousand_healthy_runs_raise_fewer_false_alarms_than_the_level(name: str, level: float) -> None:
    # 0.3 is no level to use: it is where a fault of the bound would show, as there are alarms at it.
    assert alarms(name, 2000, 64, level=level) <= level
    assert alarms(name, 500, 64, of_means=True, level=level) <= level


@pytest.mark.parametrize(("drop", "problems", "least"), [(0.2, 128, 0.7), (0.1, 512, 0.8)])
def test_a_run_whose_gold_falls_is_caught(drop: float, problems: int, least: float) -> None:
    mean = np.r_[np.linspace(0.3, 0.6, 5), np.linspace(0.6, 0.6 - drop, 5), [0.6 - drop] * 3]
    caught = 0
    for seed in range(20):
        looks = looks_of(scores(np.random.default_rng(seed), mean, problems, 0.5, 0.0))
        caught += any(look.alarm for look in looks)
    assert caught / 20 >= least


def test_the_recipe_measures_the_looks_of_a_run() -> None:
    import truegain.recipes  # noqa: F401

    (form,) = build("gold-gap-guard", level=0.01, horizon=5, margin=0.02)
    assert form.metric[0].keywords == {"level": 0.01, "horizon": 5, "margin": 0.02}
