"""RiskPO's bundles, risk and tracked quantiles: the worked example, a slow oracle, and what the paper promises."""

from __future__ import annotations

import math
import random
import statistics
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from truegain.core.errors import SettingError
from truegain.core.forms import Train
from truegain.core.settings import loop_with, with_setting
from truegain.methods.credit import bundled_risk, track_quantiles
from truegain.methods.credit._bundles import bundles_of
from truegain.recipes.riskpo import riskpo as recipe


def rows(questions: Sequence[Sequence[float]]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Reward, group, key and mask of one-token rows; the j-th row of each question has the j-th smallest key."""
    reward = torch.tensor([r for q in questions for r in q], dtype=torch.float64)
    group = torch.tensor([g for g, q in enumerate(questions) for _ in q])
    return reward, group, torch.arange(len(reward)), torch.ones(len(reward), 1, dtype=torch.bool)


def risk(questions: Sequence[Sequence[float]], **knobs: object) -> list[float]:
    return bundled_risk(*rows(questions), **knobs)[:, 0].tolist()  # type: ignore[arg-type]


# The worked example. Papers (0,0), (1,0), (1,1), (0,1): scores 0, 1, 2, 1; quantiles at 0.2 and 0.8 are 0.6 and 1.4 (at
# place 0.6 of 0, 1, 1, 2, and at place 2.4); sample deviation sqrt(2/3) = 0.8165.
# Paper 0: CVaR = -0.6/0.2 = -3, RVaR 0, so 1.5 * -3 / 2.5 / 0.8165 = -2.2045.
# Papers 1, 3: RVaR = 0.4/0.6, /2.5 /0.8165 = 0.3266. Paper 2: RVaR = (1.4 - 0.6)/0.6, so 0.6532.
# Both questions have mean 0.5. Paper 0: excesses -0.5, -0.5 of sum -1, half each: -1.1023. Paper 1: 0.5 and -0.5 sum to
# 0, so half of 0.3266 each.
EXAMPLE = ((0.0, 1.0, 1.0, 0.0), (0.0, 0.0, 1.0, 1.0))


def test_the_worked_example_of_the_catalog_comes_out() -> None:
    assert risk(EXAMPLE, bundle=2, share="uniform") == pytest.approx([-2.2045, 0.3266, 0.6532, 0.3266] * 2, abs=1e-4)
    found = risk(EXAMPLE, bundle=2)
    assert [found[0], found[4]] == pytest.approx([-1.1023, -1.1023], abs=1e-4)
    assert [found[1], found[5]] == pytest.approx([0.1633, 0.1633], abs=1e-4)


def test_shares_by_deviation_and_by_outcome_as_worked_out_by_hand() -> None:
    # Both questions deviate by sqrt(4 * 0.25 / 3) = 0.57735: -2.2045 / 0.57735 = -3.8183.
    assert risk(EXAMPLE, bundle=2, share="deviation")[0] == pytest.approx(-3.8183, abs=1e-3)
    # A right answer gets half of its paper's risk, a wrong one one and a half: rows of paper 1, with 0.3266.
    found = risk(EXAMPLE, bundle=2, share="outcome")
    assert [found[1], found[5]] == pytest.approx([0.1633, 0.4899], abs=1e-4)


def test_the_risk_seeking_variant_rewards_the_upper_tail() -> None:
    # Paper 2, above 1.4 by 0.6: 1.5 * 0.6/0.2 + 0.8/0.6 = 5.8333, /2.5 /0.8165 = 2.8577; paper 0 gets nothing.
    found = risk(EXAMPLE, bundle=2, share="uniform", seeks="upper")
    assert [found[0], found[2]] == pytest.approx([0.0, 2.8577], abs=1e-3)


def test_the_natural_baseline_moves_every_paper_by_the_middle_range() -> None:
    plain = risk(EXAMPLE, bundle=2, share="uniform", normalise=False)
    moved = risk(EXAMPLE, bundle=2, share="uniform", normalise=False, natural=True)
    # (0.6 - 1.4) / 0.6 / 2.5 = -0.5333
    assert [m - p for m, p in zip(moved, plain, strict=True)] == pytest.approx([-0.53333] * 8, abs=1e-4)


def quantile(values: Sequence[float], level: float) -> float:
    values = sorted(values)
    place = level * (len(values) - 1)
    below = math.floor(place)
    above = min(below + 1, len(values) - 1)
    return values[below] + (place - below) * (values[above] - values[below])


def oracle(questions: Sequence[Sequence[float]], size: int, at: tuple[float, float] | None, share: str) -> list[float]:
    """The formulas of the docstring, paper by paper, with lower 0.2, upper 0.8 and mixing 1.5."""
    out = [[0.0] * len(q) for q in questions]
    for start in range(0, len(questions), size):
        members = list(range(start, min(start + size, len(questions))))
        papers = min(len(questions[q]) for q in members)
        scores = [size * statistics.fmean(questions[q][j] for q in members) for j in range(papers)]
        low, high = (quantile(scores, 0.2), quantile(scores, 0.8)) if at is None or papers == 1 else at
        spread = statistics.stdev(scores) if papers > 1 else 0.0
        for j, score in enumerate(scores):
            middle = (max(score - low, 0) - max(score - high, 0)) / (0.6 + 1e-6)
            value = (
                (1.5 * -max(low - score, 0) / (0.2 + 1e-6) + middle) / 2.5 / ((spread if spread > 1e-3 else 1) + 1e-6)
            )
            excess = {q: questions[q][j] - statistics.fmean(questions[q]) for q in members}
            total = sum(excess.values())
            for q in members:
                own = statistics.stdev(questions[q]) if len(questions[q]) > 1 else 0.0
                factor = {
                    "uniform": 1.0,
                    "outcome": 0.5 if questions[q][j] > 0 else 1.5,
                    "deviation": 1 / (own + 1e-6 if own > 1e-3 else 1),
                    "excess": max(-10.0, min(10.0, excess[q] / total)) if abs(total) > 1e-6 else 1 / len(members),
                }[share]
                out[q][j] = value * factor
    return [x for row in out for x in row]


QUESTIONS = st.lists(st.lists(st.sampled_from([0.0, 0.5, 1.0]), min_size=1, max_size=5), min_size=1, max_size=6)


@settings(max_examples=30)
@given(QUESTIONS, st.integers(1, 4), st.sampled_from([None, (0.5, 1.25)]))
def test_it_equals_the_formula_written_out_paper_by_paper(
    questions: list[list[float]], size: int, at: tuple[float, float] | None
) -> None:
    given_at = {} if at is None else {"lower_at": at[0], "upper_at": at[1]}
    for share in ("excess", "deviation", "uniform", "outcome"):
        found = risk(questions, bundle=size, share=share, **given_at)
        assert found == pytest.approx(oracle(questions, size, at, share), abs=1e-7)


def test_risk_grows_up_to_the_upper_quantile_and_stays_there() -> None:
    scores = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0]
    found = risk([scores], bundle=1, share="uniform", normalise=False, lower_at=1.0, upper_at=2.0)
    assert all(a < b for a, b in pairwise(found[:5]))
    assert found[4] == found[5] == found[6] > 0
    middle = risk([scores], bundle=1, share="uniform", normalise=False, mixing=0.0, lower_at=1.0, upper_at=2.0)
    assert middle[:3] == [0.0, 0.0, 0.0], "without the tail nothing below the lower quantile counts"
    tail = [f - m / 2.5 for f, m in zip(found, middle, strict=True)]
    assert tail[2:] == pytest.approx([0.0] * 5), "the tail is 0 from the lower quantile on"


@given(st.lists(st.lists(st.sampled_from([0.0, 1.0]), min_size=4, max_size=4), min_size=3, max_size=3))
def test_unclamped_shares_of_a_paper_add_up_to_its_risk(questions: list[list[float]]) -> None:
    shared = torch.tensor(risk(questions, bundle=3, share_bound=None)).reshape(3, 4).sum(0)
    whole = torch.tensor(risk(questions, bundle=3, share="uniform"))[:4]
    assert torch.allclose(shared, whole, atol=1e-6)


def test_shares_of_mixed_signs_are_clamped() -> None:
    # Excesses 0.75, -0.25 and -0.25 sum to 0.25: shares 3, -1, -1.
    questions = [[1.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 1.0], [0.0, 0.0, 1.0, 0.0]]
    whole = risk(questions, bundle=3, share="uniform", lower_at=2.0, upper_at=3.0)[0]
    free = risk(questions, bundle=3, share_bound=None, lower_at=2.0, upper_at=3.0)
    bound = risk(questions, bundle=3, share_bound=2.0, lower_at=2.0, upper_at=3.0)
    assert whole < 0
    assert [free[i] / whole for i in (0, 4, 8)] == pytest.approx([3, -1, -1])
    assert [bound[i] / whole for i in (0, 4, 8)] == pytest.approx([2, -1, -1])


def test_rows_beyond_the_smallest_group_and_empty_batches_get_nothing() -> None:
    found = risk([[1.0, 0.0, 1.0], [0.0, 1.0]], bundle=2, lower_at=3.0, upper_at=4.0)
    assert found[2] == 0.0 and all(found[i] != 0 for i in (0, 1, 3, 4))
    none = torch.zeros(0)
    assert bundled_risk(none, none.long(), none.long(), torch.zeros(0, 2, dtype=torch.bool)).shape == (0, 2)
    assert risk([[1.0], [0.0]], bundle=2, lower_at=0.3, upper_at=0.5) == [0.0, 0.0], (
        "one paper: its score is its quantile"
    )


def test_a_bundle_whose_papers_score_alike_is_not_blown_up() -> None:
    found = risk([[0.0] * 4, [0.0] * 4], bundle=2, lower_at=0.5, upper_at=1.0)
    # 1.5 * -0.5/0.2 / 2.5 = -1.5, over a deviation that counts as 1, half for each row.
    assert found == pytest.approx([-0.75] * 8, abs=1e-4)


def test_illegal_levels_and_bundles_are_refused() -> None:
    for knobs in ({"lower": 0.8, "upper": 0.2}, {"upper": 1.5}, {"bundle": 0}):
        with pytest.raises(SettingError, match="bundled_risk"):
            risk(EXAMPLE, **knobs)


def test_bundles_are_drawn_by_the_keys_and_not_by_the_order_of_rows() -> None:
    reward, group, key, _ = rows([[0.0, 1.0], [1.0, 1.0], [0.0, 0.0], [1.0, 0.0]])
    drawn = key[torch.randperm(8, generator=torch.Generator().manual_seed(0))]
    found = bundles_of(reward, group, drawn, 2)
    assert found.score.shape == (2, 2) and sorted(found.paper.tolist()) == [0, 0, 1, 1, 2, 2, 3, 3]
    order = torch.tensor([6, 1, 4, 0, 7, 2, 5, 3])
    again = bundles_of(reward[order], 3 - group[order], drawn[order], 2)
    assert torch.equal(again.paper, found.paper[order]) and torch.equal(again.score, found.score)
    firsts = {g: int(drawn[group == g].min()) for g in range(4)}
    first_two = sorted(firsts, key=lambda g: firsts[g])[:2]
    assert {int(g) for g in group[found.paper < 2]} == set(first_two)


def test_tracked_quantiles_come_to_those_of_the_scores() -> None:
    rng, fold = random.Random(0), track_quantiles(bundle=1, lower=0.2, upper=0.8, rate=0.05)
    state, tail = fold.init(), []
    for step in range(450):
        drawn = torch.tensor([rng.random() for _ in range(16)])
        state, out = fold.update(state, reward=drawn, group=torch.zeros(16).long(), key=torch.arange(16))
        if step >= 150:
            tail.append(tuple(out.values()))
    assert statistics.fmean(t[0] for t in tail) == pytest.approx(0.2, abs=0.03)
    assert statistics.fmean(t[1] for t in tail) == pytest.approx(0.8, abs=0.03)


def test_a_step_without_rows_moves_no_quantile() -> None:
    none = torch.zeros(0)
    assert track_quantiles().update(
        {"seen": 1.0, "lower": 2.0, "upper": 3.0}, reward=none, group=none.long(), key=none.long()
    ) == (
        {"seen": 1.0, "lower": 2.0, "upper": 3.0},
        {},
    )


def riskpo(**loop: object) -> Train:
    form = recipe(bundle=2)
    return loop_with(
        form, **{"prompts": 4, "samples": 4, "steps": 2, "eval_every": 0, "save_every": 0, "lr": 0.1, **loop}
    )


def test_a_run_sets_the_quantiles_of_the_next_step_and_keeps_them_over_a_checkpoint(tmp_path: Path) -> None:
    from truegain.policy.policy import Policy
    from truegain.tasks import make
    from truegain.train.folder import RunFolder
    from truegain.train.online import Setup, train

    def lines(place: Path, form: Train, ends: int) -> list[dict[str, object]]:
        count = [0]

        def stop() -> str | None:
            count[0] += 1
            return "enough" if count[0] > ends else None

        with RunFolder(place) as folder:
            setup = Setup(form, Policy.load("table"), make("bandit,level=50"), folder)
            return [line for line in train(setup, stop) if line["kind"] == "step"]

    form = riskpo(steps=3)
    whole = lines(tmp_path / "whole", form, 9)
    assert {"set/credit.bundled_risk.lower_at", "set/credit.bundled_risk.upper_at"} <= set(whole[0])
    first = lines(tmp_path / "cut", form, 1)
    rest = lines(tmp_path / "cut", form, 9)
    name = "set/credit.bundled_risk.upper_at"
    assert [line[name] for line in (*first, *rest)] == [line[name] for line in whole]
    assert whole[0][name] != whole[1][name]


def test_what_the_fold_sets_is_a_knob_of_the_recipe_and_the_levels_agree() -> None:
    form = with_setting(riskpo(), "bundled_risk.lower_at", 1.5)
    assert isinstance(form, Train)
    assert form.terms[0].credit[0].keywords["lower_at"] == 1.5  # type: ignore[union-attr, index]
    fold, risk_of = form.fold[0].keywords, form.terms[0].credit[0].keywords  # type: ignore[union-attr, index]
    assert all(fold[name] == risk_of[name] for name in ("bundle", "lower", "upper"))
    assert replace(form, fold=()).fold == ()
