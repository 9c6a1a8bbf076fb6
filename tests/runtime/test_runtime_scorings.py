"""Scorings under induced crashes and hangs: every one is accounted for, and none is wrong."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

from truegain.core.errors import SettingError


@pytest.fixture(scope="module")
def bench() -> ModuleType:
    folder = Path(__file__).parents[2] / "benchmarks"
    sys.path.insert(0, str(folder))
    try:
        spec = importlib.util.spec_from_file_location("bench_scorings", folder / "bench_scorings.py")
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(folder))
    return module


def test_a_plan_has_five_in_a_hundred_of_each_trouble_and_is_the_same_each_time(bench: ModuleType) -> None:
    orders = bench.plan(500)
    kinds = [order["kind"] for order in orders]
    assert (kinds.count("crash"), kinds.count("hang")) == (25, 25)
    assert orders == bench.plan(500) and orders != bench.plan(500, seed=1)


@pytest.mark.parametrize("way", ["in_workers", "in_sandbox"])
@pytest.mark.parametrize("count", [500, pytest.param(10_000, marks=pytest.mark.slow)])
def test_every_scoring_is_accounted_for_and_none_is_wrong(bench: ModuleType, way: str, count: int) -> None:
    orders = bench.plan(count)
    try:
        # With a deadline that a loaded machine keeps for sound scorings, and many places for those that hang.
        answers = getattr(bench, way)(orders, 16, 1.5)
    except SettingError as error:
        pytest.skip(str(error))
    counted = bench.tally(orders, answers)
    assert counted["right"] + counted["caught"] + counted["missed"] == count
    assert counted["wrong"] == 0
    assert counted["caught"] == count // 10
    assert counted["missed"] <= count // 50  # a machine that is too busy may miss a deadline; it may not answer wrongly
