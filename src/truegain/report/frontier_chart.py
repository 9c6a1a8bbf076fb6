"""The chart of accuracy against tokens, and the small table beside it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from truegain.report.charts import Series, Whisker, as_number, as_percent, dot_chart, span_axis
from truegain.report.graphs import figure, mini, tone

Data = Mapping[str, Any]


def frontier_chart(data: Data) -> str:
    """Every model at every judged temperature: a dot with both intervals, and the dots that no other one beats."""
    points = [p for p in data["frontier"] if all(v is not None and math.isfinite(v) for v in _numbers(p))]
    if not points:
        return ""
    dots = [_dot(p, data["arms"]) for p in points]
    x = span_axis([v for d in dots for v in (d.x, *(d.across or ()))], "mean tokens per completion", as_number, floor=0)
    heights = [v for d in dots for v in (d.low, d.high)]
    y = span_axis([max(0.0, min(heights)), min(1.0, max(heights))], "", as_percent, floor=0.0)
    best = sorted((p["tokens"]["mean"], p["accuracy"]["mean"]) for p in points if p["undominated"])
    lines = [Series("frontier", best, dashed=True)] if len(best) > 1 else []
    chart = dot_chart(dots, x, y, name="Accuracy against mean tokens, by model and temperature", lines=lines)
    text = (
        "What accuracy costs: each dot is a model at one temperature, with its 95 % intervals; the large one is the "
        "temperature that dev chose. Further up and further left is better; the dashed line joins the tested dots that "
        "no other one beats."
    )
    if any(p["split"] == "dev" for p in points):
        text += " Hollow dots were judged on dev only, whose problems are others."
    arms = list(dict.fromkeys(p["arm"] for p in points))
    legend = [(tone(arm), str(data["arms"][arm]["label"])) for arm in arms]
    rows = [_row(p, str(data["arms"][p["arm"]]["label"])) for p in points if p["chosen"]]
    return figure("Accuracy for tokens", text, legend, chart, mini(("", "Right", "Tokens, 95 %"), rows) if rows else "")


def _numbers(point: Data) -> list[Any]:
    return [point[key][end] for key in ("accuracy", "tokens") for end in ("mean", "low", "high")]


def _dot(point: Data, arms: Data) -> Whisker:
    right, tokens = point["accuracy"], point["tokens"]
    where = "" if point["split"] == "test" else ", on dev"
    note = (
        f"{arms[point['arm']]['label']} at temperature {point['temperature']:g}{where}: "
        f"{100 * right['mean']:.1f} % right with {tokens['mean']:.1f} tokens"
    )
    return Whisker(
        tone(point["arm"]),
        tokens["mean"],
        right["mean"],
        right["low"],
        right["high"],
        5.0 if point["chosen"] else 3.2,
        note,
        across=(max(0.0, tokens["low"]), tokens["high"]),
        hollow=point["split"] != "test",
    )


def _row(point: Data, label: str) -> tuple[str, str, str]:
    right, tokens = point["accuracy"], point["tokens"]
    heat = "greedy" if point["temperature"] == 0 else f"T {point['temperature']:g}"
    return (
        f"{label}, {heat}",
        f"{100 * right['mean']:.1f} %",
        f"{tokens['mean']:.1f} ± {(tokens['high'] - tokens['low']) / 2:.1f}",
    )
