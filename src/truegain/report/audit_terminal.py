"""An audit on the terminal: the verdict, a line per check, the counterexamples of those that fail."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from truegain.report.audit_words import MARKS, TITLES, interval, ordered, score
from truegain.report.escape import visible

_STYLES = {"fit": "green", "unfit": "bold red", "cannot tell": "yellow", "not checked": "dim"}
_MAX_EXAMPLES = 4
_TEXT = 240


def render_audit_terminal(data: Mapping[str, Any]) -> RenderableType:
    """The verdict, its sentence, the checks and up to four counterexamples."""
    verdict = data["verdict"]
    facts = f"{data['subject']['name']} on {data['problems']} problems of {data['task']}, answers as {data['form']}"
    head = Text.assemble((TITLES[verdict].upper(), _STYLES[verdict]), "  ", (visible(facts, limit=200), "dim"))
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    for name in ("", "check", "worst case", "95 %", "found"):
        table.add_column(name, justify="right" if name in ("worst case", "95 %") else "left")
    for one in ordered(data["checks"]):
        style = _STYLES[one["verdict"]]
        figure, span = interval(one["rate"])
        found = Text(_flat(one["said"], 220))
        if one["verdict"] == "not checked":
            found.stylize("dim")
        table.add_row(
            Text(f"{MARKS[one['verdict']]} {one['verdict']}", style=style),
            Text(_flat(one["title"], 90)),
            figure,
            span,
            found,
        )
    shown = [one for one in ordered(data["checks"]) if one["worst"] and one["verdict"] in ("unfit", "cannot tell")]
    parts: list[RenderableType] = [head, Text(visible(data["sentence"], limit=900)), Text(), table, Text()]
    for one in shown[:_MAX_EXAMPLES]:
        parts += [_example(one), Text()]
    parts += [Text(f"• {visible(note)}", style="dim") for note in data["notes"]]
    return Group(*parts)


def _example(one: Mapping[str, Any]) -> RenderableType:
    worst = one["worst"]
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim", justify="right", no_wrap=True)
    grid.add_column()
    rows = [
        ("prompt", worst["prompt"]),
        ("completion", worst["completion"]),
        ("right is", worst["answer"]),
        ("score", score(worst["score"])),
        ("", worst["why"]),
    ]
    for name, text in rows:
        if text:
            grid.add_row(name, Text(_flat(text, _TEXT)))
    title = Text(f"{_flat(one['title'], 90)}: {_flat(worst['strategy'], 120)}", style=_STYLES[one["verdict"]])
    return Group(title, Padding(grid, (0, 0, 0, 2)))


def _flat(text: str, limit: int) -> str:
    """On one line, with nothing hidden in it."""
    return visible(" ⏎ ".join(str(text).splitlines()).replace("\t", " "), limit=limit)
