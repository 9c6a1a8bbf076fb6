"""Hand-drawn SVG charts. Colours come from the page's style sheet by class, so that light and dark both work."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from truegain.report.escape import escape

WIDTH, HEIGHT = 460, 270
_LEFT, _RIGHT, _TOP, _BOTTOM = 50, 20, 12, 42
Point = tuple[float, float]


@dataclass(frozen=True)
class Series:
    """One line: ``tone`` is a CSS class; ``band`` holds (x, low, high); ``ghosts`` are faint lines behind it."""

    tone: str
    points: Sequence[Point]
    band: Sequence[tuple[float, float, float]] = ()
    ghosts: Sequence[Sequence[Point]] = ()
    dashed: bool = False
    dots: bool = False
    line: bool = True


@dataclass(frozen=True)
class Axis:
    """A scale from ``low`` to ``high`` with labelled ticks. ``scale`` maps a value before it is placed."""

    low: float
    high: float
    ticks: Sequence[float]
    form: Callable[[float], str]
    label: str
    scale: Callable[[float], float] = field(default=float)

    def place(self, value: float) -> float:
        """Where a value lies, 0 to 1 within the axis."""
        low, high = self.scale(self.low), self.scale(self.high)
        return (self.scale(value) - low) / (high - low or 1.0)


def nice_ticks(low: float, high: float, *, count: int = 5) -> list[float]:
    """About ``count`` round numbers that span [low, high], the outer ones at or beyond it.

    >>> nice_ticks(0.37, 0.66)
    [0.3, 0.4, 0.5, 0.6, 0.7]
    """
    if not math.isfinite(high - low) or high - low < 1e-12:
        low, high = low - 0.5, low + 0.5
    rough = (high - low) / max(count - 1, 1)
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(i * step, 12) for i in range(first, last + 1)]


def span_axis(
    values: Sequence[float], label: str, form: Callable[[float], str], *, floor: float | None = None, count: int = 5
) -> Axis:
    """An axis of round ticks around the values; ``floor`` is a bound the axis does not go below."""
    ticks = nice_ticks(min(values), max(values), count=count)
    if floor is not None:
        ticks = [t for t in ticks if t >= floor] or [floor, floor + 1]
    return Axis(ticks[0], ticks[-1], ticks, form, label)


def as_percent(value: float) -> str:
    """``40 %`` for ticks."""
    return f"{100 * value:.4g} %"


def as_number(value: float) -> str:
    """A short number for ticks: thousands as ``1.2k``."""
    return f"{value / 1000:.4g}k" if abs(value) >= 10_000 else f"{value:.4g}"


def _x(axis: Axis, value: float) -> float:
    return _LEFT + axis.place(value) * (WIDTH - _LEFT - _RIGHT)


def _y(axis: Axis, value: float) -> float:
    return HEIGHT - _BOTTOM - axis.place(value) * (HEIGHT - _TOP - _BOTTOM)


def _frame(x: Axis, y: Axis) -> str:
    """Grid lines, tick labels and axis labels."""
    right, bottom = WIDTH - _RIGHT, HEIGHT - _BOTTOM
    parts: list[str] = []
    for tick in y.ticks:
        at = _y(y, tick)
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{right}" y1="{at:.1f}" y2="{at:.1f}"/>')
        parts.append(f'<text class="tick" x="{_LEFT - 7}" y="{at + 4:.1f}" text-anchor="end">{y.form(tick)}</text>')
    for tick in x.ticks:
        at = _x(x, tick)
        parts.append(f'<line class="axis" x1="{at:.1f}" x2="{at:.1f}" y1="{bottom}" y2="{bottom + 4}"/>')
        parts.append(f'<text class="tick" x="{at:.1f}" y="{bottom + 17}" text-anchor="middle">{x.form(tick)}</text>')
    parts.append(f'<line class="axis" x1="{_LEFT}" x2="{right}" y1="{bottom}" y2="{bottom}"/>')
    middle = (_LEFT + right) / 2
    parts.append(f'<text class="label" x="{middle}" y="{HEIGHT - 6}" text-anchor="middle">{escape(x.label)}</text>')
    return "".join(parts)


def _svg(body: str, name: str) -> str:
    return f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(name)}">{body}</svg>'


def _path(points: Sequence[Point]) -> str:
    return " ".join(f"{'M' if i == 0 else 'L'}{px:.1f} {py:.1f}" for i, (px, py) in enumerate(points))


def _draw(series: Series, x: Axis, y: Axis) -> str:
    """One series: ghosts, band, line, dots."""

    def at(points: Sequence[Point]) -> list[Point]:
        return [(_x(x, a), _y(y, min(max(b, y.low), y.high))) for a, b in points]

    parts = [f'<path class="line ghost {series.tone}" d="{_path(at(g))}"/>' for g in series.ghosts if len(g) > 1]
    if len(series.band) > 1:
        upper, lower = at([(a, h) for a, _, h in series.band]), at([(a, low) for a, low, _ in series.band])
        parts.append(f'<path class="band {series.tone}" d="{_path([*upper, *reversed(lower)])} Z"/>')
    placed = at(series.points)
    if series.line and len(placed) > 1:
        dashed = " dashed" if series.dashed else ""
        parts.append(f'<path class="line {series.tone}{dashed}" d="{_path(placed)}"/>')
    if series.dots or len(placed) == 1:
        parts += [f'<circle class="dot {series.tone}" cx="{px:.1f}" cy="{py:.1f}" r="3.2"/>' for px, py in placed]
    return "".join(parts)


def line_chart(series: Sequence[Series], x: Axis, y: Axis, *, name: str) -> str:
    """Lines with bands over a light grid. ``name`` is read out in place of the picture."""
    return _svg(_frame(x, y) + "".join(_draw(s, x, y) for s in series), name)


@dataclass(frozen=True)
class Whisker:
    """A dot at (x, y) with a vertical interval, perhaps a horizontal one; ``size`` is its radius in pixels."""

    tone: str
    x: float
    y: float
    low: float
    high: float
    size: float
    note: str
    across: tuple[float, float] | None = None
    hollow: bool = False


def dot_chart(
    dots: Sequence[Whisker], x: Axis, y: Axis, *, name: str, diagonal: bool = False, lines: Sequence[Series] = ()
) -> str:
    """Dots with intervals, over lines, and over the diagonal of perfect agreement when asked."""
    parts = [_frame(x, y), *(_draw(line, x, y) for line in lines)]
    if diagonal:
        ends = f'x1="{_x(x, x.low):.1f}" y1="{_y(y, y.low):.1f}" x2="{_x(x, x.high):.1f}" y2="{_y(y, y.high):.1f}"'
        parts.append(f'<line class="diagonal" {ends}/>')
    for d in dots:
        cx, cy, low, high = (f"{v:.1f}" for v in (_x(x, d.x), _y(y, d.y), _y(y, d.low), _y(y, d.high)))
        bar = ""
        if d.across is not None:
            left, right = (f"{_x(x, v):.1f}" for v in d.across)
            bar = f'<line class="whisker {d.tone}" x1="{left}" x2="{right}" y1="{cy}" y2="{cy}"/>'
        parts.append(
            f'<g><title>{escape(d.note)}</title><line class="whisker {d.tone}" x1="{cx}" x2="{cx}" y1="{low}" '
            f'y2="{high}"/>{bar}<circle class="dot {d.tone}{" hollow" if d.hollow else ""}" cx="{cx}" cy="{cy}" '
            f'r="{d.size:.1f}"/></g>'
        )
    return _svg("".join(parts), name)


@dataclass(frozen=True)
class Row:
    """A row of the difference chart: fractions; ``wide`` is the 99 % interval where the verdict looks at it."""

    name: str
    note: str
    mean: float
    low: float
    high: float
    figure: str
    interval: str
    wide: tuple[float, float] | None = None
    strong: bool = False


def forest(rows: Sequence[Row], *, unit: Callable[[float], str]) -> str:
    """Rows of dot and interval on one scale with a line at zero; stretches with the page, its text does not."""
    ends = [0.0, *(v for r in rows for v in (r.low, r.high, *(r.wide or ())))]
    ticks = nice_ticks(min(ends), max(ends), count=6)
    axis = Axis(ticks[0], ticks[-1], ticks, unit, "")

    def at(value: float) -> str:
        return f"{2 + 96 * axis.place(value):.2f}%"

    grid = "".join(
        f'<line class="{"zero" if t == 0 else "grid"}" x1="{at(t)}" x2="{at(t)}" y1="0" y2="100%"/>' for t in ticks
    )
    out: list[str] = []
    for row in rows:
        wide = row.wide and f'<line class="wide" x1="{at(row.wide[0])}" x2="{at(row.wide[1])}" y1="50%" y2="50%"/>'
        bar = f'<line class="bar" x1="{at(row.low)}" x2="{at(row.high)}" y1="50%" y2="50%"/>'
        dot = f'<circle class="dot" cx="{at(row.mean)}" cy="50%" r="{6.5 if row.strong else 5}"/>'
        where = "strong" if row.strong else "plain"
        side = "above" if row.low > 0 else "below" if row.high < 0 else "unsure"
        out.append(
            f'<li class="forest-row {where} {side}"><div class="forest-name">{escape(row.name)}'
            f"<small>{escape(row.note)}</small></div>"
            f'<svg class="forest-bar" aria-hidden="true">{grid}{wide or ""}{bar}{dot}</svg>'
            f'<div class="forest-figure"><b>{escape(row.figure)}</b><small>{escape(row.interval)}</small></div></li>'
        )
    labels = "".join(
        f'<text class="tick" x="{at(t)}" y="14" text-anchor="middle">{escape(unit(t))}</text>' for t in ticks
    )
    out.append(
        '<li class="forest-row forest-axis" aria-hidden="true"><div class="forest-name"></div>'
        f'<svg class="forest-bar">{labels}</svg><div class="forest-figure"></div></li>'
    )
    return f'<ul class="forest">{"".join(out)}</ul>'
