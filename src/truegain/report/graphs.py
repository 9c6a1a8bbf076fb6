"""Which figures become which charts: report data in, SVG with its legend out."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from truegain.methods import evaluation as ev
from truegain.report.charts import (
    Axis,
    Row,
    Series,
    Whisker,
    as_number,
    as_percent,
    dot_chart,
    forest,
    line_chart,
    nice_ticks,
    span_axis,
)
from truegain.report.escape import escape
from truegain.report.verdict import points, span

Data = Mapping[str, Any]
_TONES = {"base": "base", "trained": "trained", "control:more-sft": "sft", "control:random-reward": "random"}


def tone(arm: str) -> str:
    """The colour class of an arm."""
    return _TONES.get(arm, "other")


def figure(title: str, text: str, legend: Sequence[tuple[str, str]], chart: str, table: str = "") -> str:
    """A card with a heading, a line of explanation, the legend, perhaps a small table, and the chart."""
    items = "".join(f'<li class="{css}">{escape(name)}</li>' for css, name in legend)
    key = f'<ul class="legend">{items}</ul>' if items else ""
    about = f'<p class="about">{escape(text).replace(" %", "&nbsp;%")}</p>' if text else ""
    return f'<figure class="card"><div><h3>{escape(title)}</h3>{about}{table}{key}</div>{chart}</figure>'


def difference_chart(data: Data) -> str:
    """All differences on one scale: the verdict's two, and those that qualify it."""
    rows = difference_rows(data)
    return forest(rows, unit=lambda v: points(v).removesuffix(".0") if v else "0") if rows else ""


def difference_rows(data: Data) -> list[Row]:
    """The rows of the chart of differences, those without an interval left out."""
    rows = [
        _row(data["gain"], "Each at its best temperature", "the verdict looks here", strong=True),
        _row(data["gain_t1"], "Both at temperature 1", "as they were trained"),
    ]
    curves = data["pass_at_k"]
    if curves and curves["n"] > 1:
        rows.append(_row(curves["difference"], f"Any of {curves['n']} tries right", "temperature 1"))
    if data["length_matched"] and data["length_matched"]["difference"]:
        note = "best temperatures" + (", over problems only" if len(data["run"]["seeds"]) > 1 else "")
        rows.append(_row(data["length_matched"]["difference"], "At equal length", note))
    for arm, row in data["arms"].items():
        if arm.startswith("control:"):
            rows.append(_row(row["trained_minus"], f"Over “{row['label']}”", "control, best temperatures"))
    return [row for row in rows if row is not None]


def _row(interval: Data | None, name: str, note: str, *, strong: bool = False) -> Row | None:
    if not interval or any(interval.get(k) is None for k in ("mean", "low", "high")):
        return None
    mean, low, high = interval["mean"], interval["low"], interval["high"]
    wide = None if interval.get("low99") is None else (interval["low99"], interval["high99"])
    return Row(name, note, mean, low, high, points(mean), span(interval), wide, strong)


def pass_chart(data: Data) -> str:
    """pass@k of each arm."""
    curves = data["pass_at_k"]
    ks = [float(k) for k in curves["k"]]
    series: list[Series] = []
    values: list[float] = []
    for arm, row in curves["arms"].items():
        known = [
            (k, m, low, high)
            for k, m, low, high in zip(ks, row["mean"], row["low"], row["high"], strict=True)
            if None not in (m, low, high)
        ]
        values += [v for k in known for v in k[1:]]
        band = [(k, low, high) for k, _, low, high in known] if arm in ("base", "trained") else []
        line = [(k, m) for k, m, _, _ in known]
        series.append(Series(tone(arm), line, band, dashed=arm not in ("base", "trained"), dots=True))
    if not values:
        return ""
    shown = [k for k in ks if math.log2(k).is_integer()] if len(ks) > 9 else ks
    x = Axis(ks[0], max(ks[-1], ks[0] + 1), shown, as_number, "tries allowed (k)", math.log2)
    y = span_axis([max(0.0, min(values)), min(1.0, max(values))], "", as_percent, floor=0.0)
    legend = [
        (tone(a) + ("" if a in ("base", "trained") else " dashed"), data["arms"][a]["label"]) for a in curves["arms"]
    ]
    chart = line_chart(series, x, y, name=f"Share of problems solved within k tries, k = 1 to {curves['n']}, by arm")
    text = (
        "Unbiased pass@k at temperature 1. Where the lines meet as k grows, training made right answers likelier but "
        "added none."
    )
    rows = [
        (name, *(_share(curves["arms"][arm]["mean"][at]) for at in (0, -1)))
        for name, arm in (("Before", "base"), ("After", "trained"))
        if arm in curves["arms"]
    ]
    return figure("Solved within k tries", text, legend, chart, mini(("", "In one try", f"In {curves['n']}"), rows))


def _share(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f} %"


def length_chart(data: Data) -> str:
    """Accuracy of base and trained within each stratum of length."""
    found = data["length_matched"]
    strata = [s for s in found["strata"] if s["count_a"] or s["count_b"]]
    dots: list[Whisker] = []
    for i, s in enumerate(strata):
        for side, css, shift in (("a", "base", -0.1), ("b", "trained", 0.1)):
            rate, count = s[f"accuracy_{side}"], s[f"count_{side}"]
            if rate is not None and count:
                note = f"{_tokens(s)} tokens: {100 * rate:.1f} % of {count} right"
                dots.append(Whisker(css, i + shift, rate, rate, rate, 3 + min(7.0, math.sqrt(count) / 5), note))
    names = [_tokens(s) for s in strata]
    x = Axis(-0.5, len(strata) - 0.5, list(range(len(strata))), lambda v: names[int(v)], "tokens in the completion")
    y = Axis(0.0, 1.0, [0, 0.25, 0.5, 0.75, 1.0], as_percent, "")
    chart = dot_chart(dots, x, y, name="Accuracy of base and trained model by completion length")
    text = (
        "Right answers among completions of similar length; larger dots are more samples. In the table lengths are "
        f"weighted alike; {100 * found['covered']:.0f} % of completions, and {found['matched']} of {found['wrong']} "
        f"wrong ones, have a counterpart{', too few for a difference' if found['difference'] is None else ''}."
    )
    rows = [
        (name, _share(found[arm] if found["difference"] else None), f"{found['mean_tokens'][arm]:.1f}")
        for name, arm in (("Before", "base"), ("After", "trained"))
    ]
    table = mini(("", "Right, lengths matched", "Mean tokens"), rows)
    legend = [("base", "Base model"), ("trained", "Trained")]
    return figure("Accuracy at equal length", text, legend, chart, table)


def mini(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A small table; the first column names the rows."""
    top = "".join(
        f'<th scope="col"{" class=right" if i else ""}>{escape(h).replace(" %", "&nbsp;%")}</th>'
        for i, h in enumerate(head)
    )
    body = ""
    for first, *rest in rows:
        cells = "".join(f'<td class="right num">{escape(cell)}</td>' for cell in rest)
        body += f'<tr><th scope="row">{escape(first)}</th>{cells}</tr>'
    return f'<table class="mini"><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>'


def _tokens(stratum: Data) -> str:
    low, high = f"{stratum['low']:.0f}", f"{stratum['high']:.0f}"
    return low if low == high else f"{low}–{high}"


def calibration_chart(data: Data) -> str:
    """Reliability of agreement between samples."""
    dots: list[Whisker] = []
    rows: list[Sequence[str]] = []
    for arm, name in (("base", "Before"), ("trained", "After")):
        found = data["calibration"].get(arm)
        if not found:
            continue
        dots += [_reliability(tone(arm), name, b) for b in found["bins"]]
        ece, signed = found["ece"], found["signed"]["mean"]
        rows.append(
            (
                name,
                f"{100 * ece['mean']:.1f} ({100 * ece['low']:.1f} to {100 * ece['high']:.1f})",
                f"{100 * abs(signed):.1f} {'over' if signed > 0 else 'under'}",
                f"{found['brier']:.3f}",
            )
        )
    x = Axis(0.0, 1.0, [0, 0.25, 0.5, 0.75, 1.0], as_percent, "share of the problem's other samples that agree")
    y = Axis(0.0, 1.0, [0, 0.25, 0.5, 0.75, 1.0], as_percent, "")
    chart = dot_chart(dots, x, y, name="Share right against agreement between samples", diagonal=True)
    text = (
        "How often a sampled answer is right, by the share of the problem's other samples that gave the same, at "
        "temperature 1. On the dashed line the model is as sure as it is right; below it, too sure."
    )
    legend = [(tone(a), n) for a, n in (("base", "Base model"), ("trained", "Trained")) if data["calibration"].get(a)]
    table = mini(("", "Off by, points (95 %)", "Confidence", "Brier score"), rows)
    return figure("Does agreement mean right?", text, legend, chart, table)


def _reliability(css: str, name: str, b: Data) -> Whisker:
    low, high = (b["correct"] if v is None else v for v in (b["low"], b["high"]))
    note = f"{name}: {100 * b['confidence']:.0f} % agree, {100 * b['correct']:.0f} % right, {b['count']} samples"
    return Whisker(css, b["confidence"], b["correct"], low, high, 2.5 + min(5.0, math.sqrt(b["count"]) / 7), note)


def training_charts(data: Data) -> list[str]:
    """Reward and truth against step and against sqrt(KL), then KL, entropy and length."""
    evals, steps = data["curves"]["evals"], data["curves"]["steps"]
    return [c for c in (_reward_chart(data), _kl_path(data), *(_small(evals, steps, *spec) for spec in _SMALL)) if c]


_SMALL = (
    ("Distance from the base", "KL divergence per completion on dev, in nats.", "kl", "kl"),
    ("Entropy", "Nats per token. Near zero the model no longer tries anything new.", "entropy", "entropy"),
    ("Length", "Mean tokens per completion.", "mean_length", "completions/mean_length"),
    ("Groups without a signal", "Share of problems whose samples all got one reward.", "", "frac_reward_zero_std"),
)


def _curve(
    runs: Sequence[Sequence[Data]], key: str, x: Callable[[Data], float | None]
) -> list[list[tuple[float, float]]]:
    """The points of ``key`` in each run."""
    return [
        [(at, row[key]) for row in rows if row.get(key) is not None and (at := x(row)) is not None] for rows in runs
    ]


def _bounds(rows: Sequence[Data], key: str, x: Callable[[Data], float | None]) -> list[tuple[float, float, float]]:
    """The intervals of ``key`` in one run, in the order of x."""
    low, high = f"{key}_low", f"{key}_high"
    found = [(x(row), row.get(low), row.get(high)) for row in rows]
    return sorted((a, b, c) for a, b, c in found if a is not None and b is not None and c is not None)


def _series(css: str, runs: Sequence[Sequence[Data]], key: str, *, dots: bool = False) -> Series | None:
    """A line over steps. One run: with its own interval. Several: faint lines, their mean, a t interval over runs."""

    def step(row: Data) -> float | None:
        return row["step"]

    lines = [line for line in _curve(runs, key, step) if line]
    if not lines:
        return None
    if len(lines) == 1:
        return Series(css, lines[0], _bounds([row for rows in runs for row in rows], key, step), dots=dots)
    tables = [dict(line) for line in lines]
    shared = sorted(set.intersection(*(set(table) for table in tables)))
    found = [(at, ev.clustered_mean(np.array([[t[at]] for t in tables], dtype=np.float64))) for at in shared]
    band = [(at, e.low, e.high) for at, e in found] if dots else []
    return Series(css, [(at, e.value) for at, e in found], band, lines, dots=dots)


def _reward_chart(data: Data) -> str:
    evals, steps, exact = data["curves"]["evals"], data["curves"]["steps"], data["run"]["proxy_is_gold"]
    parts = [
        ("reward thin", "Reward in training", _series("reward thin", steps, "reward")),
        ("reward", "Reward on dev", None if exact else _series("reward", evals, "proxy", dots=True)),
        ("trained", "Truth on dev", _series("trained", evals, "gold", dots=True)),
    ]
    text = "What training optimised, and what the exact checker says on problems not trained on."
    drawn = [(css, name, s) for css, name, s in parts if s]
    return _lines("Reward and truth", text, drawn, "training step", as_percent if exact else as_number)


def _kl_path(data: Data) -> str:
    """Gold and proxy against the square root of KL: over-optimisation bends the truth down while the reward climbs."""

    def root(row: Data) -> float | None:
        return None if row.get("kl") is None else math.sqrt(max(row["kl"], 0.0))

    evals, exact = data["curves"]["evals"], data["run"]["proxy_is_gold"]
    parts: list[tuple[str, str, Series]] = []
    for key, css, name in (("proxy", "reward", "Reward on dev"), ("gold", "trained", "Truth on dev")):
        lines = [sorted(line) for line in _curve(evals, key, root) if line]
        if not lines or (key == "proxy" and exact):
            continue
        one = len(lines) == 1
        points_ = sorted(point for line in lines for point in line)
        bounds = _bounds([row for rows in evals for row in rows], key, root) if one else []
        parts.append((css, name, Series(css, points_, bounds, () if one else lines, dots=True, line=one)))
    text = "The same against the square root of KL. A reward that climbs while the truth bends down is being gamed."
    if exact:
        text = "The same truth by how far the model has moved: the square root of its KL divergence from the base."
    form = as_percent if exact else as_number
    return _lines("Against distance travelled", text, parts, "√KL from the base, √nats", form)


def _small(evals: Sequence[Any], steps: Sequence[Any], title: str, text: str, on_dev: str, on_train: str) -> str:
    dev = _series("trained", evals, on_dev, dots=True) if on_dev else None
    parts = [("reward thin", "In training", _series("reward thin", steps, on_train)), ("trained", "On dev", dev)]
    return _lines(title, text, [(c, n, s) for c, n, s in parts if s], "training step", as_number, floor=0.0)


def _lines(
    title: str,
    text: str,
    parts: Sequence[tuple[str, str, Series]],
    x_label: str,
    form: Callable[[float], str],
    floor: float | None = None,
) -> str:
    """A figure of lines over a shared pair of axes; empty when there are no two points."""
    drawn = [s for _, _, s in parts]
    xs = [x for s in drawn for x, _ in s.points]
    ys = [y for s in drawn for _, y in s.points] + [v for s in drawn for _, *pair in s.band for v in pair]
    ys += [y for s in drawn for g in s.ghosts for _, y in g]
    if len(xs) < 2 or max(xs) == min(xs) or min(xs) < 0:
        return ""
    ticks = [t for t in nice_ticks(0.0, max(xs)) if t <= max(xs) + 1e-9]
    x = Axis(0.0, max(xs), ticks, as_number, x_label)
    low, high = min(v for v in ys if math.isfinite(v)), max(v for v in ys if math.isfinite(v))
    slack = max(0.0, 0.1 * max(abs(low), abs(high)) - (high - low)) / 2  # a change of a per cent is not a mountain
    y = span_axis([low - slack, high + slack], "", form, floor=floor)
    legend = [(css, name) for css, name, _ in parts]
    return figure(title, text, legend, line_chart(drawn, x, y, name=f"{title}, by {x_label}"))
