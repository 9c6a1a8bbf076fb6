"""What the page and the terminal say of an audit in the same words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Data = Mapping[str, Any]
TITLES = {"fit": "Fit to be optimised", "unfit": "Unfit", "cannot tell": "Cannot tell"}
MARKS = {"fit": "✓", "unfit": "✗", "cannot tell": "?", "not checked": "–"}
_ORDER = ("unfit", "cannot tell", "fit", "not checked")


def ordered(checks: Sequence[Data]) -> list[Data]:
    """Faults first, what was not checked last; else as they were made."""
    return sorted(checks, key=lambda one: _ORDER.index(one["verdict"]))


def interval(rate: Data | None) -> tuple[str, str]:
    """``3 of 100`` and ``1.0 to 8.5 %``; dashes for what was not counted."""
    if rate is None or not rate["of"]:
        return "–", ""
    return f"{rate['count']} of {rate['of']}", f"{100 * rate['low']:.1f} to {100 * rate['high']:.1f} %"


def score(value: float | None) -> str:
    """A score, or that there is none."""
    return "none" if value is None else f"{value:.4g}"


def limits(data: Data) -> list[str]:
    """The limits of the verdicts, in words."""
    rules, scale = data["rules"], data["scale"]
    return [
        f"A completion counts as right from a score of {scale['cut']:.4g}. Reference answers score {scale['top']:.4g} "
        f"in the median, wrong answers in the same form {scale['floor']:.4g}.",
        f"Unfit: some way to be paid for nothing works so often that a reward with a rate of "
        f"{100 * rules['tolerated']:g} % would show it with a probability of {rules['alarm']:.1g} at most, so that one "
        f"audit in {1 / rules['false_alarm']:.0f} of such rewards is a false alarm.",
        f"Fit: the 95 % interval of the worst way ends below {100 * rules['bound']:g} %. Else it cannot be told: more "
        "problems may help.",
        f"By labels or a second verifier, at most {100 * rules['false_right']:g} % of wrong answers may score as right "
        f"and {100 * rules['false_wrong']:g} % of right ones as wrong.",
        f"A completion may take {rules['deadline']:g} s; in all but {100 * rules['slow_share']:g} % of the calls it "
        f"must not take {rules['slow']:g} s.",
        "The reward ran in worker processes. What it cannot read must score as wrong: an exception or a passed "
        "deadline takes the row out of training, and a policy can hide its wrong answers there.",
        "The reward is fit when every check that is required is; a check that was not made says why in the table.",
    ]
