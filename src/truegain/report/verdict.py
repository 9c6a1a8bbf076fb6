"""From intervals to one of four verdicts, and to a sentence that anyone can read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

REAL, SHARPER, NONE, LOSS = "real gain", "sharpening only", "no gain", "loss"
VERDICTS = (REAL, SHARPER, NONE, LOSS)

MIN_PROBLEMS = 8
"""Below this even an exact sign-flip test cannot reach the 1 % level (2 / 2^7 > 0.01)."""

MAX_DROPPED = 0.1
"""The share of problems without a valid answer in one arm above which what is left may no longer be a fair sample."""

MAX_ABSTAINED = 0.02
"""The share of one model's samples without a verdict above which a model may have learned to make the checker fail."""

RULE = (
    "Four verdicts are possible, so each is held to a 99 % interval. Real gain: with each model at its own best "
    "temperature, chosen on other problems, the whole 99 % interval of the difference lies above zero. Loss: it lies "
    "below zero. Sharpening only: it does not exclude zero but lies below the difference at temperature 1, which does "
    "lie above zero, so training did what a lower temperature does. No gain: none of these."
)


def decide(best: Mapping[str, float], t1: Mapping[str, float]) -> str:
    """The verdict from the 99 % intervals of the best-temperature and the T=1 difference."""
    if best["low99"] > 0:
        return REAL
    if best["high99"] < 0:
        return LOSS
    return SHARPER if t1["low99"] > 0 and best["high99"] < t1["mean"] else NONE


def percent(fraction: float) -> str:
    """``41.2 %``."""
    return f"{100 * fraction:.1f} %"


def points(fraction: float) -> str:
    """``+21.8`` or ``−3.0``: a difference in percentage points."""
    value = round(100 * fraction, 1)
    return f"{'−' if value < 0 else '+'}{abs(value):.1f}"


def span(interval: Mapping[str, Any]) -> str:
    """``+17.1 to +26.5``."""
    return f"{points(interval['low'])} to {points(interval['high'])}"


def sentence(verdict: str, data: Mapping[str, Any], runs: int) -> str:
    """The verdict in plain words, with its numbers."""
    gain, arms = data["gain"], data["arms"]
    before, after = arms["base"]["best"]["mean"], arms["trained"]["best"]["mean"]
    moved = {REAL: "rose from", LOSS: "fell from"}.get(verdict, "went from")
    over = f", over {runs} training runs" if runs > 1 else ""
    first = (
        f"Accuracy on {gain['problems']} unseen problems {moved} {percent(before)} to {percent(after)}, "
        f"{points(gain['mean'])} points (95 % interval {span(gain)}{over}), each model at its own best temperature: "
    )
    if verdict == REAL:
        return first + "a real gain."
    if verdict == LOSS:
        return first + "a loss."
    if verdict == NONE:
        return first + "no gain that can be told from chance."
    t1 = data["gain_t1"]
    return (
        first + f"not told from chance. At temperature 1 the difference is {points(t1['mean'])} points ({span(t1)}): "
        "the model was sharpened, and a lower temperature does the same for the base."
    )
