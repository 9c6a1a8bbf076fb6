"""Links between reward and what is wanted: golden values, brute force, properties; the recipe on logs of runs."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import truegain.recipes  # noqa: F401  (registers the systems)
from truegain.core.errors import DataError
from truegain.core.system import build
from truegain.methods.evaluation import objective_links, score_correlation
from truegain.methods.evaluation._ranks import chance_below, ranks, spearman
from truegain.train.chain import Chain, execute
from truegain.train.launch import StopSignal

numbers = st.lists(st.tuples(st.integers(-4, 4), st.integers(-4, 4)), min_size=2, max_size=6)


def links(proxy, gold, *, kl=None, step=None, **knobs):
    p = np.array(proxy, dtype=float)
    d = np.arange(len(p), dtype=float) if kl is None else np.array(kl, dtype=float)
    s = np.arange(len(p), dtype=float) if step is None else np.array(step, dtype=float)
    return objective_links(p, d, s, {"gold": np.array(gold, dtype=float)}, **knobs)


def test_a_correlation_of_ranks_is_as_derived_by_hand():
    # ranks of x 0 1.5 1.5 3 (the two 2s share), of y 1 0 3 2; centred -1.5 0 0 1.5 and -.5 -1.5 1.5 .5:
    # 1.5 / sqrt(4.5 * 5) = 0.316228
    x, y = np.array([1.0, 2.0, 2.0, 5.0]), np.array([0.2, 0.1, 0.9, 0.5])
    assert ranks(x).tolist() == [0.0, 1.5, 1.5, 3.0]
    assert spearman(x, y) == pytest.approx(1.5 / math.sqrt(22.5))


@given(numbers)
def test_the_chance_counts_every_order_that_correlates_as_low(points):
    x, y = (np.array(column, dtype=float) for column in zip(*points, strict=True))
    seen = spearman(x, y)
    if math.isnan(seen):
        assert math.isnan(chance_below(x, y))
        return
    orders = [spearman(x, np.array(order)) for order in itertools.permutations(y)]
    assert chance_below(x, y) == pytest.approx(sum(r <= seen + 1e-9 for r in orders) / len(orders))


def test_the_chance_of_many_points_is_drawn_and_near_the_exact_one():
    x = np.arange(8.0)
    assert chance_below(x, -x) == pytest.approx(1e-4, abs=1e-4)  # 1 order of 40320; never below 1 in 10000
    assert chance_below(x, x) == 1.0
    y = np.array([3.0, 7, 1, 6, 0, 5, 2, 4])
    orders = [float(x @ np.array(order)) for order in itertools.permutations(y)]
    exact = sum(value <= float(x @ y) for value in orders) / len(orders)
    assert chance_below(x, y) == pytest.approx(exact, abs=0.02)


def test_a_run_that_turns_is_a_mismatch_and_says_where_it_turned():
    # late half of 10 looks: proxy 5..9, gold 5 4 3 2 1: rho -1, one order of 120
    (link,) = links(range(10), [0, 1, 2, 3, 4, 5, 4, 3, 2, 1], kl=[n**2 for n in range(10)], smooth=0.01).links
    assert (link.late, link.rises, link.mismatch, link.looks) == (-1.0, 1.0, True, 10)
    assert link.chance == pytest.approx(1 / 120)
    # so narrow a weight leaves each look to itself: gold is largest, 5, at sqrt(25), and 4 lower at the end
    assert (link.peak, link.lost) == (5.0, pytest.approx(4.0))


def test_the_smoothed_peak_is_the_weighted_mean_written_out():
    gold, d = [0.0, 2.0, 1.0], [0.0, 1.0, 2.0]
    (link,) = links(range(3), gold, kl=[x * x for x in d], smooth=0.5).links
    # width 0.5 * 2 = 1: weights exp(-1/2) at distance 1, exp(-2) at distance 2
    one, two = math.exp(-0.5), math.exp(-2.0)
    mean = [
        (0 + 2 * one + 1 * two) / (1 + one + two),
        (0 + 2 + 1 * one) / (1 + 2 * one),
        (0 + 2 * one + 1) / (1 + one + two),
    ]
    assert link.peak == d[mean.index(max(mean))] and link.lost == pytest.approx(max(mean) - mean[-1])


@given(st.lists(st.floats(-5, 5), min_size=1, max_size=20), st.floats(0.1, 5), st.floats(-3, 3))
def test_a_run_trained_on_gold_itself_is_never_a_mismatch(gold, scale, shift):
    exact = [round(g, 3) for g in gold]
    assert links([scale * g + shift for g in exact], exact, alpha=1.0).mismatches == 0


@given(numbers, st.floats(0.1, 5), st.floats(-3, 3))
def test_the_report_does_not_depend_on_the_unit_of_the_proxy(points, scale, shift):
    proxy, gold = zip(*points, strict=True)
    one, other = links(proxy, gold, alpha=1.0), links([scale * p + shift for p in proxy], gold, alpha=1.0)
    assert repr(one) == repr(other)  # repr, as NaN is not equal to itself


def test_a_fall_that_chance_could_have_made_is_no_mismatch_unless_every_fall_is_asked_for():
    proxy, gold = [0, 1, 2, 3, 4, 5, 6, 7], [0, 1, 2, 3, 6, 4, 5.5, 5]
    # late: ranks of gold 3 0 2 1, rho -0.4; 9 of 24 orders are as low
    (link,) = links(proxy, gold).links
    assert link.late == pytest.approx(-0.4) and link.chance == pytest.approx(9 / 24) and not link.mismatch
    assert links(proxy, gold, alpha=1.0).mismatches == 1


def test_a_proxy_that_falls_with_gold_is_no_mismatch():
    assert links([8, 7, 6, 5, 4, 3, 2, 1], [1, 2, 3, 4, 5, 6, 7, 8], alpha=1.0).mismatches == 0


def test_runs_are_told_apart_where_the_step_does_not_grow_and_rows_without_looks_are_left_out():
    nan = math.nan
    proxy = [0, nan, 1, nan, 2, nan, 3, 0, 1, 2]
    step = [0, 1, 2, 3, 4, 5, 6, 0, 1, 2]
    found = links(proxy, proxy, step=step).links
    assert [(link.run, link.looks) for link in found] == [(0, 4), (1, 3)]


@pytest.mark.parametrize(("proxy", "gold"), [([1.0], [1.0]), ([2.0, 2.0, 2.0], [1.0, 2.0, 3.0])])
def test_one_look_or_a_constant_proxy_has_no_link(proxy, gold):
    (link,) = links(proxy, gold, alpha=1.0).links
    assert math.isnan(link.late) and math.isnan(link.chance) and not link.mismatch


def test_without_looks_there_is_nothing_and_without_kl_there_is_no_peak():
    assert links([math.nan], [1.0]).links == () and links([], []).links == ()
    (link,) = links(range(4), range(4), kl=[math.nan] * 4).links
    assert math.isnan(link.peak) and link.whole == 1.0


def test_what_cannot_be_read_is_refused_by_name():
    with pytest.raises(DataError, match=r"no 'helpful'.*hold gold"):
        links([1.0], [1.0], downstream=("helpful",))
    with pytest.raises(DataError, match="alpha=0"):
        links([1.0], [1.0], alpha=0.0)


def test_scores_of_reward_models_are_correlated_with_outcomes_as_by_hand():
    # ranks 0 1 2 3 against 1 0 2 3: 1 - 6 * 2 / (4 * 15) = 0.8; orders of 4 with rho >= 0.8: the identity and the
    # three swaps of neighbours, 4 of 24. Pearson: (-1.5 * -.5 + -.5 * -1.5 + .5 * .5 + 1.5 * 1.5) / 5 = 0.8
    found = score_correlation(np.array([1.0, 2, 3, 4, math.nan]), np.array([2.0, 1, 3, 4, 9]))
    assert (found.spearman, found.pearson) == (pytest.approx(0.8), pytest.approx(0.8))
    assert found.chance == pytest.approx(4 / 24) and (found.models, found.dropped) == (4, 1)
    assert math.isnan(score_correlation(np.array([1.0]), np.array([1.0])).spearman)
    assert math.isnan(score_correlation(np.array([1.0, 1.0]), np.array([1.0, 2.0])).pearson)


def test_the_recipe_reads_the_logs_of_two_runs_and_names_the_one_that_was_hacked(tmp_path: Path):
    files: list[Path] = []
    for name, gold in (("good", [0.1 * n for n in range(12)]), ("hacked", [0.1 * min(n, 9 - n) for n in range(12)])):
        lines = []
        for n, value in enumerate(gold):
            lines.append({"kind": "step", "step": 10 * n + 1, "kl": 0.3, "reward": 0.5})
            look = {"kind": "eval", "step": 10 * n + 5, "proxy": 0.1 * n, "gold": value, "kl": 0.2 * n}
            lines.append(look | {"mean_length": 5.0})
        files.append(tmp_path / f"{name}.jsonl")
        files[-1].write_text("".join(json.dumps(line) + "\n" for line in lines))
    forms = build("objective-mismatch", downstream=("gold", "mean_length"))
    chain = Chain(forms, "objective-mismatch", tmp_path / "out", records=tuple(files))
    list(execute(chain, StopSignal()))
    record = json.loads((tmp_path / "out" / "1-measure" / "record.json").read_text())["evaluation.objective_links"]
    assert record["mismatches"] == 1
    told = [(link["metric"], link["run"], link["mismatch"]) for link in record["links"]]
    assert told == [("gold", 0, False), ("gold", 1, True), ("mean_length", 0, False), ("mean_length", 1, False)]


def test_the_recipe_across_runs_reads_a_line_per_run_and_says_which_field_is_missing(tmp_path: Path):
    file = tmp_path / "runs.jsonl"
    file.write_text("".join(json.dumps({"benchmark": b, "outcome": b**2}) + "\n" for b in (0.6, 0.7, 0.9)))
    forms = build("objective-mismatch", across=True)
    list(execute(Chain(forms, "objective-mismatch", tmp_path / "out", records=(file,)), StopSignal()))
    record = json.loads((tmp_path / "out" / "1-measure" / "record.json").read_text())
    assert record["evaluation.score_correlation"]["spearman"] == 1.0
    other = Chain(build("objective-mismatch"), "objective-mismatch", tmp_path / "no", records=(file,))
    with pytest.raises(DataError, match=r"objective_links needs 'proxy'; the records give benchmark, outcome"):
        list(execute(other, StopSignal()))
