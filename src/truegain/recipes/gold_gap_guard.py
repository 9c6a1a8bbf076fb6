"""The over-optimisation guard: whether gold has fallen while the proxy rose, at a stated rate of false alarms."""

from __future__ import annotations

from functools import partial

from truegain.core.forms import Measure
from truegain.core.system import system
from truegain.methods import guard


@system(
    "guard",
    paper="truegain",
    cite="our own; the e-values are those of Waudby-Smith and Ramdas 2024 and Vovk and Wang 2021",
)
def gold_gap_guard(level: float = 0.05, horizon: int = 20, margin: float = 0.0) -> Measure:
    """Alarm where gold has fallen below an earlier look, while a policy is optimised against a proxy.

    Reads the looks of a run, a row per look and problem (``--records RUN/evals/looks.jsonl``). A healthy run of any
    length raises an alarm with probability ``level`` at most; ``horizon`` is about the number of looks and ``margin``
    the fall that does not matter. While a run is going on: `truegain train --guard`, ``GoldGapGuard`` inside TRL and
    transformers, `truegain guard` for logs.
    """
    return Measure(partial(guard.gold_gap, level=level, horizon=horizon, margin=margin))
