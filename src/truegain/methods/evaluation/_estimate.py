"""What an interval estimate is."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Estimate:
    """A number with its interval.

    ``low`` and ``high`` bound the interval at ``level`` (NaN where there is too little data for one). ``se`` is the
    standard error. ``clusters`` counts the independent units behind it (problems, mostly); ``dropped`` counts the
    units left out because nothing valid was known about them.
    """

    value: float
    low: float
    high: float
    se: float
    level: float
    clusters: int
    dropped: int = 0
