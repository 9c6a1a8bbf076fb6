"""Accuracy against tokens: what stands where, and which dots no other one beats."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from truegain.report.frontier import frontier
from truegain.report.frontier_chart import frontier_chart
from truegain.report.load import Record, Run
from truegain.report.tables import tabulate


def record(arm: str, split: str, heat: float, problem: int, gold: float | None, tokens: int, sample: int = 0) -> Record:
    return Record(arm, split, heat, f"{split}-{problem}", sample, gold, None, tokens, "eos", "p", "a", "t", 1, None)


def run_of(*records: Record) -> Run:
    return Run(Path("run"), {}, (), (), records, {})


def rows(arm: str, split: str, heat: float, golds: list[float | None], tokens: list[int]) -> list[Record]:
    return [record(arm, split, heat, n, g, t) for n, (g, t) in enumerate(zip(golds, tokens, strict=True))]


def points(*records: Record) -> dict[tuple[str, float], Any]:
    table = tabulate(run_of(*records))
    return {(p["arm"], p["temperature"]): p for p in frontier([table], ["base", "trained"])}


def test_a_dot_is_the_mean_over_problems_of_judged_samples() -> None:
    # Problem 0 is right with 10 and 20 tokens, problem 1 wrong with 30; problem 2's only sample was not judged.
    found = points(
        record("base", "test", 1.0, 0, 1.0, 10), record("base", "test", 1.0, 0, 1.0, 20, sample=1),
        record("base", "test", 1.0, 1, 0.0, 30), record("base", "test", 1.0, 2, None, 999),
    )["base", 1.0]  # fmt: skip
    assert found["accuracy"]["mean"] == pytest.approx(0.5)
    # 15 for problem 0 and 30 for problem 1: their mean 22.5, the unjudged one in neither figure.
    assert found["tokens"]["mean"] == pytest.approx(22.5)
    assert found["tokens"]["low"] < 22.5 < found["tokens"]["high"]


def test_test_samples_come_before_dev_and_dev_stands_in_where_there_are_none() -> None:
    dev = [*rows("base", "dev", 0.0, [1, 1, 1, 0], [5] * 4), *rows("base", "dev", 1.0, [0, 0, 1, 0], [9] * 4)]
    found = points(*dev, *rows("base", "test", 1.0, [1, 0, 1, 0], [8] * 4))
    assert (found["base", 1.0]["split"], found["base", 0.0]["split"]) == ("test", "dev")
    assert found["base", 1.0]["accuracy"]["mean"] == pytest.approx(0.5)
    assert found["base", 0.0]["chosen"] and not found["base", 1.0]["chosen"]
    assert not found["base", 0.0]["undominated"], "a dot of other problems beats nobody"


def test_a_dot_is_beaten_by_one_that_is_no_worse_on_both_counts_and_better_on_one() -> None:
    found = points(
        *rows("base", "test", 0.0, [1, 0, 0, 0], [20] * 4),
        *rows("base", "test", 1.0, [1, 0, 0, 0], [30] * 4),  # as right with more tokens
        *rows("trained", "test", 0.0, [1, 1, 0, 0], [40] * 4),
        *rows("trained", "test", 1.0, [1, 1, 0, 0], [40] * 4),  # the same twice: neither beats the other
    )
    assert [key for key, p in found.items() if p["undominated"]] == [("base", 0.0), ("trained", 0.0), ("trained", 1.0)]


def test_an_arm_without_judged_samples_has_no_dot_and_a_page_without_dots_no_chart() -> None:
    assert points(*rows("base", "test", 1.0, [None, None], [3, 4])) == {}
    assert frontier_chart({"frontier": [], "arms": {}}) == ""
    one = points(*rows("base", "test", 1.0, [1.0], [3]))["base", 1.0]
    assert frontier_chart({"frontier": [one], "arms": {"base": {"label": "Base"}}}) == "", "no interval of one problem"


def test_the_chart_escapes_names_and_says_what_is_hollow() -> None:
    dev = rows("base", "dev", 0.0, [1, 1, 1, 0], [5, 6, 5, 6])
    test = rows("base", "test", 1.0, [1, 0, 1, 0], [8, 9, 8, 9])
    data = {
        "frontier": list(points(*dev, *test).values()),
        "arms": {"base": {"label": "<b>Base</b>"}},
    }
    page = frontier_chart(data)
    assert "<b>Base" not in page and "&lt;b&gt;Base" in page
    assert page.count('class="dot base hollow"') == 1 and "judged on dev only" in page
    assert "75.0&nbsp;%" in page or "75.0 %" in page
