"""The verdict on one screen: at most 24 lines of 100 columns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from truegain.report.charts import Row
from truegain.report.graphs import difference_rows
from truegain.report.verdict import LOSS, NONE, REAL, SHARPER, percent, points, span

_STYLES = {REAL: "bold green", LOSS: "bold red", SHARPER: "bold yellow", NONE: "bold", None: "bold"}
_TITLES = {REAL: "A REAL GAIN", LOSS: "A LOSS", SHARPER: "SHARPENING ONLY", NONE: "NO GAIN", None: "NO VERDICT YET"}
_WIDTH = 36
_MAX_ROWS = 6
_MAX_REMARKS = 3
_BLOCKS = "▁▂▃▄▅▆▇█"


def render_terminal(data: Mapping[str, Any]) -> RenderableType:
    """The verdict, its sentence, the differences as bars, the truth on dev and the weightiest remarks."""
    run, verdict = data["run"], data["verdict"]
    title = Text.assemble(
        (_TITLES[verdict], _STYLES[verdict]),
        ("  ", ""),
        (f"{run['recipe']} on {run['task']}, model {run['model']}", "dim"),
    )
    title.truncate(100, overflow="ellipsis")
    parts: list[RenderableType] = [title, Text(data["sentence"]), Text()]
    rows = difference_rows(data)[:_MAX_ROWS]
    if rows:
        parts += [_bars(rows), Text()]
    parts += [*_truth(data), *(_remark(text) for text in data["remarks"][:_MAX_REMARKS])]
    return Group(*parts)


def _remark(text: str) -> Text:
    line = Text(f"• {text}", style="dim")
    line.truncate(198, overflow="ellipsis")  # two lines of a hundred
    return line


def _bars(rows: Sequence[Row]) -> Table:
    """One line per difference: name, figure, interval, and a bar on a common scale with zero marked."""
    ends = [0.0, *(v for row in rows for v in (row.low, row.high))]
    low, high = min(ends), max(ends)
    table = Table.grid(padding=(0, 2))
    for n in range(4):
        table.add_column(justify="right" if n == 1 else "left", no_wrap=True)
    for row in rows:
        style = "green" if row.low > 0 else "red" if row.high < 0 else ""
        table.add_row(
            Text(row.name[:30], style="bold" if row.strong else ""),
            Text(row.figure, style=f"bold {style}".strip()),
            Text(row.interval, style="dim"),
            _bar(row, low, high, style),
        )
    return table


def _bar(row: Row, low: float, high: float, style: str) -> Text:
    def at(value: float) -> int:
        return round((value - low) / ((high - low) or 1.0) * (_WIDTH - 1))

    cells = [" "] * _WIDTH
    cells[at(0.0)] = "│"
    for i in range(at(row.low), at(row.high) + 1):
        cells[i] = "┿" if i == at(0.0) else "━"
    cells[at(row.mean)] = "●"
    return Text("".join(cells), style=style)


def _truth(data: Mapping[str, Any]) -> list[RenderableType]:
    """The gold curve on dev of the first run as a line of blocks."""
    gold = [row["gold"] for row in (data["curves"]["evals"] or [[]])[0] if row["gold"] is not None]
    if len(gold) < 2:
        return []
    gold = gold[:: -(-len(gold) // 40)] if len(gold) > 40 else gold
    low, high = min(gold), max(gold)
    blocks = "".join(_BLOCKS[round((v - low) / ((high - low) or 1.0) * (len(_BLOCKS) - 1))] for v in gold)
    return [Text.assemble("Truth on dev  ", (blocks, "cyan"), f"  {percent(gold[0])} to {percent(gold[-1])}"), Text()]


def render_compare(data: Mapping[str, Any]) -> RenderableType:
    """Methods by interquartile mean, then each pair with its difference and probability of improvement."""
    methods = Table(box=None, padding=(0, 2), header_style="dim")
    for name in ("method", "runs", "IQM accuracy", "IQM gain"):
        methods.add_column(name, justify="left" if name == "method" else "right")
    for m in data["methods"]:
        bounds = f"({percent(m['iqm']['low'])} to {percent(m['iqm']['high'])})"
        methods.add_row(
            Text(m["name"]),
            str(m["runs"]),
            f"{percent(m['iqm']['mean'])} {bounds}",
            f"{points(m['gain']['mean'])} ({span(m['gain'])})",
        )
    pairs = Table(box=None, padding=(0, 2), header_style="dim")
    for name in ("pair", "IQM difference", "P(improvement)"):
        pairs.add_column(name, justify="left" if name == "pair" else "right")
    for p in data["pairs"]:
        chance = p["probability_of_improvement"]
        pairs.add_row(
            Text(f"{p['a']} over {p['b']}"),
            f"{points(p['difference']['mean'])} ({span(p['difference'])})",
            f"{chance['mean']:.2f} ({chance['low']:.2f} to {chance['high']:.2f})",
        )
    notes = [Text(f"• {note}", style="dim") for note in data["notes"]]
    return Group(Text(f"On {', '.join(data['tasks'])}", style="bold"), methods, Text(), pairs, Text(), *notes)
