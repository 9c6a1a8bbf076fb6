"""A heuristic that leads astray, and one that helps: added to the true reward as they are, or blended by BARFI.

The mazes of the first run differed by their corners alone, so that five seeds gave one number; now also by slip, start
and what the heuristic pays.
"""

from __future__ import annotations

from collections.abc import Mapping

from truegain.claims.claim import Claim
from truegain.recipes.barfi import barfi


def _one_seed(seed: int) -> Mapping[str, float]:
    arms: dict[str, float] = {}
    for heuristic, helpful in (("misleading", False), ("helpful", True)):
        for name, learn in (("sum", False), ("barfi", True)):
            record = barfi(learn=learn, helpful=helpful, seed=seed).function()
            arms[f"{name}, {heuristic}"] = record["share"]
            arms[f"{name}, {heuristic}: after a fifth"] = record["early"]
            arms[f"{name}, {heuristic}: weight of the heuristic"] = record["weights"][2]
    return arms


CLAIM = Claim(
    name="barfi",
    system="barfi",
    states="On a 5x5 maze whose heuristic pays for steps towards the wrong corner, the policy trained on the learned "
    "blend ends with a true return more than 60 % of the best one above that of the policy trained on the plain sum, "
    "after equal inner steps (the blend's own derivatives come on top); a helpful heuristic stands beside it.",
    unit="share of the best true return",
    one_seed=_one_seed,
    effect=lambda arms: arms["barfi, misleading"] - arms["sum, misleading"],
    threshold=0.6,
)
