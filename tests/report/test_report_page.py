"""The page and the terminal view: safe with hostile text, self-contained, legible, never half-written."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import os
import re
from html.parser import HTMLParser
from importlib.resources import files
from pathlib import Path

import pytest
import report_runs as make
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from truegain.core.errors import RunError
from truegain.report import build, render_terminal, write
from truegain.report.charts import nice_ticks
from truegain.report.escape import escape, visible
from truegain.report.page import render_page

HOSTILE = (
    "[bold red]markup[/]<script>alert(1)</script><img src=x onerror=alert(2)>\"'`</pre></style>"
    "<style>*{display:none}</style>\u202egnirts\u2066\u200b\ufeff\x00\x07\x1b[31m\U000e0041&lt;http://evil.example/ "
    "a" + "\u0301" * 50
)
ALLOWED = """
    html head meta title style body main header section footer h1 h2 h3 h4 p b small span bdi div ul li dl dt dd pre
    table thead tbody tr th td figure article details summary svg g path line circle text
"""


class Reader(HTMLParser):
    """Collects elements, attributes and text, and checks that elements nest."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.words = ""
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))
        if tag != "meta":
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open and self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] != "style":
            self.words += data


@pytest.fixture(scope="module")
def hostile(tmp_path_factory) -> Path:
    """A run in which every text that a model, a task or a user can write is hostile, some of it a megabyte long."""
    run = tmp_path_factory.mktemp("hostile")
    arms = ("base", "trained")
    lines = make.records(make.better, arms=arms, problems=60, text=lambda arm, hit: HOSTILE)
    for i, r in enumerate(lines):
        r |= {
            "problem": r["problem"] + HOSTILE,
            "prompt": HOSTILE,
            "answer": HOSTILE,
            "final": HOSTILE,
            "stop": HOSTILE,
        }
        if i % 400 == 0:
            r["text"] = HOSTILE * (1_000_000 // len(HOSTILE))
    for r in [r for r in lines if r["arm"] == "trained" and r["split"] == "test"]:
        lines.append({**r, "arm": "control:" + HOSTILE})
        lines.append({**r, "arm": "control:" + HOSTILE, "split": "dev"})
    settings = make.settings() | dict.fromkeys(("command", "model", "task", "recipe", "seed"), HOSTILE)
    settings |= {"settings": {HOSTILE: {HOSTILE: HOSTILE}}, "versions": {HOSTILE: HOSTILE, "truegain": HOSTILE}}
    (run / "settings.json").write_text(json.dumps(settings))
    make.write_lines(run / "log.jsonl", make.log_lines())
    make.write_lines(run / "evals" / "records.jsonl", lines)
    return run


def test_hostile_text_makes_no_element_no_attribute_and_no_address(hostile):
    page = write(hostile).read_text(encoding="utf-8")
    reader = Reader(page)
    assert {tag for tag, _ in reader.found} <= set(ALLOWED.split())
    attributes = {name for _, attrs in reader.found for name in attrs}
    assert not any(name.startswith("on") or name in ("style", "href", "src", "xlink:href") for name in attributes)
    assert "<script>alert(1)</script>" in reader.words  # shown, as text
    assert len(page) < 400_000


def test_nothing_in_the_page_is_invisible_or_reorders_its_neighbours(hostile):
    page = write(hostile).read_text(encoding="utf-8")
    bad = set(page) - set(map(chr, range(32, 127))) - {"\n", "\t"}
    assert not {c for c in bad if visible(c) != c}
    assert "‹U+202E›" in page and "‹U+0000›" in page and "‹U+E0041›" in page


def test_the_policy_allows_the_one_style_sheet_and_nothing_else(hostile):
    page = write(hostile).read_text(encoding="utf-8")
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]*)"', page)
    style = re.search(r"<style>(.*?)</style>", page, re.S)
    assert policy and style
    digest = base64.b64encode(hashlib.sha256(style.group(1).encode()).digest()).decode()
    assert policy.group(1) == f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    assert page.index("Content-Security-Policy") < page.index("<style>")
    assert not re.search(r"@import|url\(|expression\(", style.group(1))


def test_the_page_of_a_finished_run_has_every_part(tmp_path):
    arms = ("base", "trained", "control:more-sft", "control:random-reward")
    run = make.write_run(tmp_path / "run", arms=arms, problems=60)
    words = Reader(write(run).read_text(encoding="utf-8")).words
    parts = (
        "Each at its best temperature|Both at temperature 1|Any of 8 tries right|At equal length|Over “More SFT”|"
        "Over “Random reward”|What to keep in mind|The models compared|it saw gold traces|Solved within k tries|"
        "Does agreement mean right?|Examples|Reward and truth|Against distance travelled|Entropy|Length|276,000|"
        "What training cost|truegain train grpo --model tiny|optimiser.lr|How the verdict is reached"
    )
    for part in parts.split("|"):
        assert part in words, part
    data = json.loads((run / "report.json").read_text(encoding="utf-8"))
    assert data == build(run)
    assert data["sentence"].replace(" %", "\xa0%") in words


def test_charts_hold_no_nan_and_stay_in_their_frame(tmp_path):
    run = make.write_run(tmp_path / "run", problems=30, honest=False)
    page = render_page(build(run))
    assert not re.search(r'"(nan|inf|-inf)|[ ML](nan|inf)', page)
    for svg in re.findall(r'<svg class="chart".*?</svg>', page, re.S):
        xs = [float(v) for v in re.findall(r' (?:x|x1|x2|cx)="(-?[\d.]+)"', svg)]
        ys = [float(v) for v in re.findall(r' (?:y|y1|y2|cy)="(-?[\d.]+)"', svg)]
        assert min(xs) >= 0 and max(xs) <= 460 and min(ys) >= 0 and max(ys) <= 270


@pytest.mark.parametrize("steps", [0, 1, 2])
def test_a_run_killed_before_its_test_gets_a_clear_partial_page(tmp_path, steps):
    (tmp_path / "settings.json").write_text(json.dumps(make.settings()))
    make.write_lines(tmp_path / "log.jsonl", make.log_lines()[:steps])
    words = Reader(write(tmp_path).read_text(encoding="utf-8")).words
    assert "No verdict yet" in words
    assert f"The base model has not been tested yet (the log has {steps} training steps)." in words
    assert json.loads((tmp_path / "report.json").read_text())["verdict"] is None


def _contrast(one: str, two: str) -> float:
    """WCAG 2 contrast ratio of two #rrggbb colours."""

    def luminance(colour: str) -> float:
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    high, low = sorted((luminance(one), luminance(two)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def test_contrast_meets_wcag_aa_in_light_and_dark():
    css = files("truegain.report").joinpath("page.css").read_text(encoding="utf-8")
    blocks = re.findall(r":root \{(.*?)\}", css, re.S)
    assert len(blocks) == 2
    for block in blocks:
        colour = dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", block))
        for text in ("ink", "muted", "gain", "loss", "sharper", "none"):
            for ground in ("bg", "surface", "sunken"):
                assert _contrast(colour[text], colour[ground]) >= 4.5, (text, ground)
        for mark in ("base", "trained", "reward", "sft", "random", "other", "axis"):
            assert _contrast(colour[mark], colour["surface"]) >= 3.0, mark


def _printed(data, width: int = 100) -> list[str]:
    console = Console(file=io.StringIO(), width=width, color_system=None)
    console.print(render_terminal(data))
    return console.file.getvalue().splitlines()  # type: ignore[attr-defined]


def test_the_terminal_verdict_fits_one_screen(hostile, tmp_path):
    arms = ("base", "trained", "control:more-sft", "control:random-reward")
    run = make.write_run(tmp_path / "run", arms=arms, problems=200)
    for folder in (run, hostile):
        lines = _printed(build(folder))
        assert len(lines) <= 24 and max(map(len, lines)) <= 100
        assert not set("".join(lines)) & set("\x00\x07\x1b\u202e\u200b")
    assert _printed(build(run))[0].startswith("A REAL GAIN")
    assert "[bold red]markup[/]" in "".join(_printed(build(hostile)))  # not read as markup


def test_a_failed_write_leaves_the_old_page_and_says_where(tmp_path, monkeypatch):
    run = make.write_run(tmp_path / "run", problems=20)
    page = write(run)
    before = page.read_bytes()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RunError, match=r"report\.json.*No space left"):
        write(run)
    assert page.read_bytes() == before
    assert [p.name for p in run.iterdir() if p.name.startswith(".")] == []


@given(st.text(max_size=300))
def test_visible_text_is_bounded_and_survives_the_escape(text):
    shown = visible(text, limit=50)
    assert len(shown) <= 50 * 10 + 40
    assert visible(shown, limit=10_000) == shown
    assert not set(escape(text)) & set("<>\"'")


def test_long_text_says_how_much_is_left_out():
    assert visible("x" * 1000, limit=5) == "xxxxx … (995 more characters)"
    assert visible("xy", limit=5, length=9) == "xy … (7 more characters)"
    assert visible("e\u0301te\u0301") == "e\u0301te\u0301"
    assert len(visible("a" + "\u0301" * 500)) == 5


def test_ticks_are_round_few_and_cover_the_values():
    for low, high in ((0.37, 0.66), (0, 1), (-3, 1200), (5, 5), (1e-9, 2e-9), (0.999, 1.0)):
        ticks = nice_ticks(low, high)
        assert ticks[0] <= low and ticks[-1] >= high and 2 <= len(ticks) <= 8
