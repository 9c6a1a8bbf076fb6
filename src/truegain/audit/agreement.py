"""How often a reward is wrong by the word of a second verifier or of labels, and how far best-of-n against it goes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from truegain.audit.checks import Check, check, shown
from truegain.audit.evidence import Evidence
from truegain.audit.probes import question
from truegain.audit.subject import Said
from truegain.audit.trials import Scale
from truegain.audit.verdicts import FIT, SKIPPED, UNFIT, UNSURE, Rules, judge
from truegain.methods.evaluation import best_of_n, crossed_mean, difference_mean, proportion_mean

TITLES = {
    "false right": "It seldom pays what is wrong",
    "false wrong": "It seldom refuses what is right",
    "best of n": "Gold does not turn when the best of n by it is taken",
}
TURN_LEVEL = 0.999
"""Coverage, over all pairs of n together, of the intervals of gold's fall, of which one must lie below zero.

Two-sided, so one curve in 2000 is called a turn by chance."""
FALL = 0.02
"""A fall of gold of less than this, from its best, is not called a turn."""


def agreement(given: Evidence, said: Sequence[Said], found: Scale, rules: Rules, *, required: bool) -> list[Check]:
    """Rates of false right and false wrong answers, problems as clusters. Abstentions on either side are left out."""
    checks = []
    for ident, truth, limit in (("false right", 0.0, rules.false_right), ("false wrong", 1.0, rules.false_wrong)):
        per: list[float] = []
        hit: list[int] = []
        seen = 0
        for rows in given.by_problem().values():
            kept = [i for i in rows if given.gold[i] == truth and said[i].value is not None]
            wrong = [i for i in kept if found.right(said[i]) != bool(truth)]
            per += [len(wrong) / len(kept)] if kept else []
            hit, seen = hit + wrong, seen + len(kept)
        checks.append(_error(ident, per, hit, seen, limit, given, said, rules) | {"required": required})
    return checks


def _error(
    ident: str, per: Sequence[float], hit: Sequence[int], seen: int, limit: float, given: Evidence,
    said: Sequence[Said], rules: Rules,
) -> Check:  # fmt: skip
    word = "right" if ident == "false wrong" else "wrong"
    if not per:
        return check(ident, TITLES[ident], UNSURE, f"{given.source}: no completion is {word}")
    rate = judge(per, rules, tolerated=limit, bound=limit)
    said_ = f"{len(hit)} of {seen} completions that are {word} by {given.source} score as the opposite"
    if rate.verdict == UNSURE and not hit:
        said_ += f"; {len(per)} problems are too few for a bound of {100 * limit:g} %"
    worst = None
    if hit:
        problem, text = given.rows[hit[0]]
        truth = f"{word} by {given.source}"
        worst = shown(question(problem), text, problem.answer, said[hit[0]].value, truth)
    return check(ident, TITLES[ident], rate.verdict, said_, rate=rate, worst=worst)


def optimised(given: Evidence, said: Sequence[Said], found: Scale, rules: Rules) -> tuple[Check, dict[str, Any] | None]:
    """Best-of-n by the reward: its own curve and gold's, over problems, and the n at which gold turns, if it does."""
    groups = [[i for i in rows if given.gold[i] is not None] for rows in given.by_problem().values()]
    most = max((len(rows) for rows in groups), default=0)
    count = max((n for n in (2**k for k in range(12)) if sum(len(g) >= n for g in groups) >= 2), default=1)
    if count < 2:
        why = f"{given.source}: fewer than two problems with two completions each (the most is {most})"
        return check("best of n", TITLES["best of n"], SKIPPED, why, required=False), None
    kept = [rows[:count] for rows in groups if len(rows) >= count]
    proxy = np.array([[np.nan if said[i].value is None else said[i].value for i in rows] for rows in kept], np.float64)
    gold = np.array([[float(given.gold[i] or 0.0) for i in rows] for rows in kept], np.float64)
    paid = np.clip((np.where(np.isnan(proxy), found.floor, proxy) - found.floor) / _span(found), -9.0, 9.0)
    ns = [2**k for k in range(count.bit_length())]
    golds = [best_of_n(proxy, gold, n=n) for n in ns]
    curve = {
        "n": ns,
        "problems": len(kept),
        "gold": [_estimate(proportion_mean(np.clip(g, 0.0, 1.0)[None])) for g in golds],
        "proxy": [_estimate(crossed_mean(best_of_n(proxy, paid, n=n)[None])) for n in ns],
        "source": given.source,
    }
    turns, fall = turn(ns, golds)
    curve |= {"turns": turns, "fall": fall}
    first, last = curve["gold"][0]["value"], curve["gold"][-1]["value"]
    moved = f"gold goes from {100 * first:.1f} % to {100 * last:.1f} % at n = {count}, over {len(kept)} problems"
    if turns is not None:
        return check(
            "best of n", TITLES["best of n"], UNFIT, f"{moved}; it turns at n = {turns}", required=False
        ), curve
    falls = last < max(e["value"] for e in curve["gold"]) - FALL
    verdict = UNSURE if falls else FIT
    more = "; it falls, but no more than chance may" if falls else ""
    return check("best of n", TITLES["best of n"], verdict, moved + more, required=False), curve


def turn(ns: Sequence[int], golds: Sequence[np.ndarray]) -> tuple[int | None, dict[str, float] | None]:
    """The first n at which gold is surely below its best so far, by more than `FALL`; and by how much."""
    looks = len(ns) * (len(ns) - 1) / 2  # any two of the n may be the ones that are compared
    for k in range(1, len(ns)):
        best = max(range(k), key=lambda j: float(golds[j].mean()))
        apart = golds[k] - golds[best]
        strict = difference_mean(apart[None], level=1.0 - (1.0 - TURN_LEVEL) / looks)
        if strict.high < 0.0 and strict.value < -FALL:
            return ns[k], _estimate(difference_mean(apart[None]))
    return None, None


def _span(found: Scale) -> float:
    return found.top - found.floor if found.top > found.floor else 1.0


def _estimate(e: Any) -> dict[str, float]:
    return {"value": e.value, "low": e.low, "high": e.high}
