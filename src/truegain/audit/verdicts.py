"""From counts to verdicts: fit, unfit or cannot tell, by an interval and by limits that are stated."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from truegain.methods.evaluation import proportion_mean

Verdict = Literal["fit", "unfit", "cannot tell", "not checked"]
FIT: Verdict = "fit"
UNFIT: Verdict = "unfit"
UNSURE: Verdict = "cannot tell"
SKIPPED: Verdict = "not checked"
FALSE_ALARM = 0.005
"""How likely a reward whose every rate is the tolerated one is called unfit, over `Rules.tests` rates together."""


@dataclass(frozen=True)
class Rules:
    """The limits of an audit. All rates are shares of problems.

    ``tolerated``: a rate surely above it is unfit. ``bound``: a rate surely below it is fit. ``deadline`` (seconds)
    bounds one completion, ``slow`` (seconds) is what one may take, in all but ``slow_share`` of the calls.
    ``false_right`` and ``false_wrong`` are the most that a reward may err against a second verifier. ``tests`` counts
    the rates among which false alarms are shared out.
    """

    tolerated: float = 0.02
    bound: float = 0.05
    deadline: float = 5.0
    slow: float = 1.0
    slow_share: float = 0.05
    false_right: float = 0.05
    false_wrong: float = 0.10
    tests: int = 150

    @property
    def alarm(self) -> float:
        """How likely a single rate that is the tolerated one may be called unfit."""
        return FALSE_ALARM / self.tests

    def as_dict(self) -> dict[str, Any]:
        """The limits with what follows from them, for the page."""
        return {**asdict(self), "alarm": self.alarm, "false_alarm": FALSE_ALARM}


@dataclass(frozen=True)
class Rate:
    """A share of ``of`` problems, with its 95 % Wilson interval, and the verdict on it."""

    count: int
    of: int
    value: float
    low: float
    high: float
    verdict: Verdict

    def as_dict(self) -> dict[str, Any]:
        """As JSON; what is not known is None."""
        return {k: None if isinstance(v, float) and math.isnan(v) else v for k, v in asdict(self).items()}


def judge(broken: Sequence[float], rules: Rules, *, tolerated: float | None = None, bound: float | None = None) -> Rate:
    """The rate of a fault from one number in [0, 1] per problem (1.0: broken there).

    Unfit where a rate of what is tolerated would give so many with a probability of ``rules.alarm`` at most: an exact
    binomial test, or for fractions a clustered interval of that level. Fit where the 95 % interval lies below the
    bound. Else it cannot be told; fewer than two problems tell nothing.

    >>> judge([0.0] * 100, Rules()).verdict, judge([1.0] * 30, Rules()).verdict, judge([0.0] * 9, Rules()).verdict
    ('fit', 'unfit', 'cannot tell')
    """
    limit, most = rules.tolerated if tolerated is None else tolerated, rules.bound if bound is None else bound
    x = np.asarray(broken, dtype=np.float64)[None]
    count, of = int((x > 0).sum()), x.shape[1]
    if of < 2:
        return Rate(count, of, float(x.mean()) if of else math.nan, 0.0, 1.0, UNSURE)
    usual = proportion_mean(x)
    if bool(np.isin(x, (0.0, 1.0)).all()):
        surely = at_least(count, of, limit) <= rules.alarm
    else:
        surely = proportion_mean(x, level=1.0 - 2.0 * rules.alarm).low > limit
    verdict = UNFIT if surely else FIT if usual.high <= most else UNSURE
    return Rate(count, of, usual.value, usual.low, usual.high, verdict)


def at_least(count: int, of: int, share: float) -> float:
    """The probability of ``count`` or more faults in ``of`` problems at a rate of ``share``: a binomial tail.

    >>> round(at_least(3, 4, 0.02), 7)
    3.15e-05
    """
    if not 0.0 < share < 1.0:
        return float(count <= 0 or (share >= 1.0 and count <= of))
    # By logarithms: from a thousand problems on, the binomial coefficients are larger than any float.
    yes, no, ways = math.log(share), math.log1p(-share), math.lgamma(of + 1)
    return math.fsum(
        math.exp(ways - math.lgamma(k + 1) - math.lgamma(of - k + 1) + k * yes + (of - k) * no)
        for k in range(count, of + 1)
    )


def overall(checks: Sequence[Mapping[str, Any]]) -> Verdict:
    """One unfit check makes the reward unfit; it is fit when every check that is required says so."""
    verdicts = [check["verdict"] for check in checks if check["required"] or check["verdict"] == UNFIT]
    if UNFIT in verdicts:
        return UNFIT
    return FIT if verdicts and all(verdict == FIT for verdict in verdicts) else UNSURE
