"""Comparing methods over their runs."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import report_runs as make
from rich.console import Console

from truegain.core.errors import DataError
from truegain.report import build, compare, render_compare


def method(folder: Path, skill: float, *, seeds: int = 3, recipe: str = "grpo", task: str = "sort", **options) -> Path:
    """A folder of seeds of a method whose trained model has this skill."""
    for s in range(seeds):

        def rates(arm: str, t: float, d: np.ndarray) -> np.ndarray:
            return 1 / (1 + np.exp(-(np.log(d / (1 - d)) + (skill if arm == "trained" else 0.0))))

        changes = {"recipe": recipe, "task": task}
        where = folder if seeds == 1 else folder / f"seed-{s}"
        make.write_run(
            where, rates=rates, seed=s + 100 * len(folder.name), settings=changes,
            **{"problems": 60, "dev_problems": 15, "samples": 2, "temperatures": (1.0,), **options},
        )  # fmt: skip
    return folder


def test_the_better_method_comes_first_with_its_difference_and_probability(tmp_path):
    data = compare([method(tmp_path / "weak", 0.3), method(tmp_path / "strong", 2.0)])
    assert [m["name"] for m in data["methods"]] == ["strong", "weak"]
    pair = data["pairs"][0]
    assert (pair["a"], pair["b"]) == ("strong", "weak")
    assert pair["difference"]["low"] > 0 and pair["probability_of_improvement"]["mean"] == 1.0
    top, low = (m["iqm"]["mean"] for m in data["methods"])
    assert pair["difference"]["mean"] == pytest.approx(top - low)
    assert any("too narrow" in note for note in data["notes"])


def test_with_one_run_the_mean_is_the_reports_accuracy_and_gain(tmp_path):
    a, b = method(tmp_path / "a", 1.5, seeds=1), method(tmp_path / "bb", 0.1, seeds=1)
    data = compare([a, b])
    for row, path in zip(data["methods"], (a, b), strict=True):
        report = build(path)
        assert row["iqm"]["mean"] == pytest.approx(report["arms"]["trained"]["best"]["mean"])
        assert row["gain"]["mean"] == pytest.approx(report["gain"]["mean"])
        assert row["iqm"]["low"] < row["iqm"]["mean"] < row["iqm"]["high"]


def test_equal_methods_are_not_told_apart(tmp_path):
    pair = compare([method(tmp_path / "x", 1.0, seeds=5), method(tmp_path / "yy", 1.0, seeds=5)])["pairs"][0]
    assert pair["difference"]["low"] < 0 < pair["difference"]["high"]
    assert pair["probability_of_improvement"]["low"] < 0.5 < pair["probability_of_improvement"]["high"]


def test_folders_of_one_recipe_on_several_tasks_are_one_method(tmp_path):
    runs = [
        method(tmp_path / f"{recipe}-{task}", skill, recipe=recipe, task=task, seeds=2)
        for recipe, skill in (("grpo", 2.0), ("rloo", 0.2))
        for task in ("sort", "add")
    ]
    data = compare(runs)
    assert data["tasks"] == ["add", "sort"] and [m["name"] for m in data["methods"]] == ["grpo", "rloo"]
    one = [build(r)["arms"]["trained"]["best"]["mean"] for r in runs[:2]]
    assert data["methods"][0]["mean"] == pytest.approx(np.mean(one))


def test_the_same_call_gives_the_same_numbers_in_any_order(tmp_path):
    a, b = method(tmp_path / "a", 1.5), method(tmp_path / "bb", 0.5)
    assert compare([a, b]) == compare([a, b])
    assert [m["iqm"]["mean"] for m in compare([b, a])["methods"]] == [
        m["iqm"]["mean"] for m in compare([a, b])["methods"]
    ]


def test_what_cannot_be_compared_is_refused_by_name(tmp_path):
    a, other = method(tmp_path / "a", 1.0, seeds=1), method(tmp_path / "c", 1.0, seeds=1, task="add")
    with pytest.raises(DataError, match="at least two"):
        compare([a])
    with pytest.raises(DataError, match=r"different tasks .*a on sort, .*c on add.*second method"):
        compare([a, other])
    apart = method(tmp_path / "d", 1.0, seeds=1, recipe="rloo", task="add")
    with pytest.raises(DataError, match=r"different tasks \(grpo on sort; rloo on add\).*on one task"):
        compare([a, apart])
    (apart / "evals" / "records.jsonl").unlink()
    with pytest.raises(DataError, match="finish the run first"):
        compare([a, apart])


def test_the_comparison_prints(tmp_path):
    data = compare([method(tmp_path / "weak", 0.3, seeds=1), method(tmp_path / "strong", 2.0, seeds=1)])
    console = Console(file=io.StringIO(), width=100, color_system=None)
    console.print(render_compare(data))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "strong over weak" in text and "P(improvement)" in text and "On sort" in text
