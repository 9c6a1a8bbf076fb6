"""The page of an audit and its lines on the terminal: everything escaped, bounded, nothing hidden."""

from __future__ import annotations

import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from truegain.audit.verdicts import Rules
from truegain.report import render_audit, render_audit_terminal, write_audit

TEXTS = st.text(max_size=40) | st.sampled_from(
    ["<script>alert(1)</script>", '"><img src=x onerror=y>', "\u202e\x1b[31m", "[bold]"]
)


def data(text: str, verdict: str = "unfit") -> dict[str, Any]:
    rate = {"count": 3, "of": 40, "value": 0.075, "low": 0.02, "high": 0.2, "verdict": verdict}
    worst = {"strategy": text, "prompt": text, "completion": text * 60, "length": 10_000, "answer": text, "score": 1.0}
    one = {"id": "x", "title": text, "verdict": verdict, "said": text, "rate": rate, "required": True}
    curve = [{"value": v, "low": v - 0.1, "high": v + 0.1} for v in (0.3, 0.5, 0.4)]
    return {
        "verdict": verdict,
        "sentence": text,
        "subject": {"name": text, "kind": "trl", "fact": None},
        "task": text,
        "form": "boxed",
        "seed": 0,
        "problems": 40,
        "completions": 5000,
        "scale": {"top": 1.0, "floor": 0.0, "cut": 0.5},
        "checks": [{**one, "worst": {**worst, "why": text}, "strategies": [{"strategy": text, **rate}] * 2}],
        "best_of_n": {"n": [1, 2, 4], "problems": 9, "gold": curve, "proxy": curve, "source": text, "turns": 4},
        "rules": Rules().as_dict(),
        "notes": [text],
    }


class Reader(HTMLParser):
    """Collects the tags and attributes of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}


def read(page: str) -> Reader:
    found = Reader()
    found.feed(page)
    return found


PLAIN = read(render_audit(data("plain")))


@settings(max_examples=60, deadline=None)
@given(TEXTS, st.sampled_from(["fit", "unfit", "cannot tell"]))
def test_no_text_adds_a_tag_an_attribute_or_a_hidden_character(text: str, verdict: str) -> None:
    page = render_audit(data(text, verdict))
    found = read(page)
    assert found.tags <= PLAIN.tags
    assert found.attributes <= PLAIN.attributes
    assert "\u202e" not in page
    assert "\x1b" not in page


def test_the_page_runs_no_script_and_loads_nothing() -> None:
    page = render_audit(data("<script>alert(1)</script>"))
    assert "<script" not in page
    assert "default-src 'none'" in page
    assert not re.search(r"(?:src|href)=", page)


def test_a_long_completion_is_cut_and_its_length_is_told() -> None:
    page = render_audit(data("x" * 40))
    assert "of 10,000" in page
    assert len(page) < 60_000


@settings(max_examples=30, deadline=None)
@given(TEXTS)
def test_the_terminal_shows_no_control_character(text: str) -> None:
    out = io.StringIO()
    Console(file=out, width=120, markup=False, emoji=False, highlight=False).print(render_audit_terminal(data(text)))
    assert all(c.isprintable() or c == "\n" for c in out.getvalue())


def test_the_data_is_written_beside_the_page(tmp_path: Path) -> None:
    page = write_audit(tmp_path / "audit.html", data("x"))
    assert page.read_text().startswith("<!doctype html>")
    assert json.loads((tmp_path / "audit.json").read_text())["verdict"] == "unfit"
