"""The live view and the plain lines, from hand-made events and a hand-moved clock."""

from __future__ import annotations

import io
import re
from typing import Any

import pytest
from rich.console import Console

from truegain.cli.drive import Lines
from truegain.cli.live import View, duration, sparkline

EVENTS: list[dict[str, Any]] = [
    {"kind": "arm", "arm": "trained", "seed": 3, "steps": 40, "max_seconds": None},
    {
        "kind": "eval",
        "arm": "trained",
        "seed": 3,
        "step": 0,
        "gold": 0.25,
        "gold_low": 0.2,
        "gold_high": 0.3,
        "kl": 0.0,
    },
    {"kind": "step", "arm": "trained", "seed": 3, "step": 1, "reward": 0.5, "seconds": 2.0, "lr": 1e-4, "entropy": 0.4},
    {
        "kind": "step",
        "arm": "trained",
        "seed": 3,
        "step": 10,
        "reward": 0.7,
        "seconds": 2.0,
        "lr": 1e-4,
        "entropy": 0.3,
    },
    {
        "kind": "eval",
        "arm": "trained",
        "seed": 3,
        "step": 10,
        "gold": 0.5,
        "gold_low": 0.4,
        "gold_high": 0.6,
        "kl": 0.1,
    },
]


class Clock:
    """Seconds that move when told."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


def seen(events: list[dict[str, Any]], *, title: str = "grpo on sort", seeds: tuple[int, ...] = (3,)) -> View:
    """A view that took the events, 7 s after the run began."""
    clock = Clock()
    view = View(title, seeds, clock=clock)
    for event in events:
        view.take(event)
    clock.now += 7
    return view


def drawn(view: View, width: int = 80) -> str:
    """The panel as a terminal would get it, styles left out."""
    out = io.StringIO()
    Console(file=out, width=width, force_terminal=True, color_system=None, markup=False).print(view)
    return out.getvalue()


def test_the_panel_says_where_the_run_stands() -> None:
    panel = drawn(seen(EVENTS))
    assert "step 10/40 · 2.00 s per step" in panel
    assert "25 %  7 s used, 60 s left" in panel  # 30 steps to go at 2 s
    assert re.search(r"reward +0\.600 +▁█ +last 2 steps", panel)
    assert re.search(r"gold on dev +50\.0 % +▁█ +95 %: 40 to 60", panel)
    assert "KL 0.100" in panel
    assert "entropy 0.300" in panel


@pytest.mark.parametrize("width", [40, 80, 120])
def test_no_line_of_the_panel_is_wider_than_the_terminal(width: int) -> None:
    long = [*EVENTS, {"kind": "note", "text": "x" * 500, "seed": 3, "arm": "trained"}]
    lines = drawn(seen(long, title="t" * 300, seeds=(3, 4)), width).splitlines()
    assert {len(line) for line in lines} == {width}


def test_time_counts_where_time_ends_the_arm_earlier_sittings_included() -> None:
    view = seen([{"kind": "arm", "arm": "trained", "seed": 3, "steps": 10**6, "max_seconds": 40.0, "spent": 13.0}])
    panel = drawn(view)
    assert "50 %  20 s used, 20 s left" in panel
    assert "1000000" not in panel


def test_judging_and_finished_arms_are_named() -> None:
    judge = {"kind": "judge", "arm": "base", "seed": 3, "text": "base: dev at temperature 0.3"}
    panel = drawn(seen([*EVENTS, judge]))
    assert "judging base: dev at temperature 0.3 done" in panel
    assert "done: trained 10 steps" in panel


def test_the_last_training_panel_stays_in_sight_while_its_model_is_judged_with_rate_and_time_left() -> None:
    clock = Clock()
    view = View("grpo on sort", (3,), sizes={"dev": 10, "test": 20, "samples": 4}, clock=clock)
    for event in EVENTS:
        view.take(event)
    for second, heat in ((104.0, "0"), (110.0, "0.3")):
        clock.now = second
        view.take({"kind": "judge", "arm": "base", "seed": 3, "text": f"base: dev at temperature {heat}"})
    panel = drawn(view)
    # 30 of 170 completions in 10 s: 3 a second, 140 to go.
    assert "3.0 completions per second" in panel
    assert "18 %  10 s used, 46 s left" in panel
    assert "trained after 10 steps" in panel
    assert re.search(r"reward +0\.600 +▁█ +last 2 steps", panel)
    assert re.search(r"gold on dev +50\.0 % +▁█ +95 %: 40 to 60", panel)
    view.take({"kind": "arm", "arm": "control:random-reward", "seed": 3, "steps": 9})
    assert "trained after" not in drawn(view)


def test_what_a_run_brings_can_neither_style_nor_move_the_terminal() -> None:
    hostile = "[red]x[/red] :smile: \x1b[2J\x1b]0;title\x07 \u202e\r\n[/bold]"
    events = [
        *EVENTS,
        {"kind": "note", "text": hostile, "seed": 3, "arm": "trained"},
        {"kind": "judge", "text": hostile, "seed": 3, "arm": hostile},
    ]
    panel = drawn(seen(events, title=hostile), 200)
    assert "\x1b[2J" not in panel
    assert "\x07" not in panel
    assert "\u202e" not in panel
    assert "[red]x[/red] :smile: \\x1b[2J" in panel


def test_numbers_that_are_missing_or_not_finite_leave_a_gap_and_do_no_harm() -> None:
    odd = {
        "kind": "step",
        "seed": 3,
        "arm": "trained",
        "step": 11,
        "reward": "NaN",
        "entropy": float("nan"),
        "lr": None,
    }
    panel = drawn(seen([EVENTS[0], odd, {"kind": "eval", "step": 11, "seed": 3, "arm": "trained", "gold": None}]))
    assert re.search(r"gold on dev +- ", panel)
    assert "nan" not in panel.lower()


def test_a_sparkline_spans_its_values_and_averages_what_is_too_many() -> None:
    assert sparkline([0.0, 0.5, 1.0]) == "▁▄█"
    assert sparkline([]) == ""
    # 64 values in 32 places: each place is the mean of two, so zigzag becomes flat
    assert sparkline([0.0, 1.0] * 32) == "▁" * 32
    assert len(sparkline(list(map(float, range(1000))))) == 32


def test_durations_read_as_people_say_them() -> None:
    assert [duration(s) for s in (0, 99.9, 100, 3599, 3660)] == [
        "0 s",
        "99 s",
        "1 min 40 s",
        "59 min 59 s",
        "1 h 01 min",
    ]


def lines(
    events: list[tuple[float, dict[str, Any]]], capsys: pytest.CaptureFixture[str], seeds: tuple[int, ...]
) -> str:
    """What the plain progress prints, each event at its second."""
    clock = Clock()
    progress = Lines(View("t", seeds, clock=clock), clock=clock)
    for second, event in events:
        clock.now = 100.0 + second
        progress.take(event)
    return capsys.readouterr().out


def test_plain_lines_come_every_few_seconds_and_always_for_the_last_step(capsys: pytest.CaptureFixture[str]) -> None:
    step = {"kind": "step", "arm": "trained", "seed": 3, "reward": 0.5, "seconds": 1.0}
    events = [(0.0, EVENTS[0]), *((float(n), {**step, "step": n}) for n in range(1, 13))]
    events.append((13.0, {"kind": "judge", "arm": "base", "seed": 3, "text": "base: dev"}))
    out = lines(events, capsys, (3,))
    assert re.findall(r"step (\d+)/40", out) == ["5", "10", "12"]
    assert out.splitlines()[-1] == "judging: base: dev"
    assert "seed" not in out


def test_plain_lines_name_the_seed_when_there_are_several_and_stay_on_one_line(
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = lines(
        [(0.0, EVENTS[0]), (1.0, EVENTS[1]), (1.0, {"kind": "note", "text": "a\nb\x1b[2J", "seed": 3})], capsys, (3, 4)
    )
    assert out.splitlines() == [
        "seed 3 · trained: training",
        "seed 3 · trained: step 0, dev: gold 25.0 % (20.0 to 30.0), KL 0.000",
        "seed 3 · trained: a b\\x1b[2J",
    ]
