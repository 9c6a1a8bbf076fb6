"""What accuracy costs in tokens: every model at every temperature that was judged. Statistics only; nothing draws."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from truegain.methods import evaluation as ev
from truegain.report.tables import Group, Table, interval, problem_scores, stack


def frontier(tables: Sequence[Table], arms: Sequence[str]) -> list[dict[str, Any]]:
    """Accuracy and mean tokens with 95 % intervals for each arm and temperature, in that order.

    ``split`` says where a point comes from: the test split where the arm was tested at that temperature, else dev, on
    which temperatures are chosen: such a point is on other problems and a little flattered. ``chosen`` marks the
    temperature that dev chose in any run. ``undominated`` points, of the test split alone, have no other one that is as
    accurate with fewer tokens or more accurate with as few.
    """
    found: list[dict[str, Any]] = []
    for arm in arms:
        heats = sorted({t for table in tables for name, _, t in table.groups if name == arm})
        found += [point for heat in heats if (point := _point(tables, arm, heat)) is not None]
    tested = [p for p in found if p["split"] == "test"]
    for p in found:
        p["undominated"] = p["split"] == "test" and not any(_dominates(other, p) for other in tested)
    return found


def _point(tables: Sequence[Table], arm: str, heat: float) -> dict[str, Any] | None:
    for split in ("test", "dev"):
        groups = [g for t in tables if (g := t.groups.get((arm, split, heat)))]
        scores = [s for g in groups if (s := problem_scores(g))]
        if scores:
            chosen = any(t.chosen.get(arm) == heat for t in tables)
            return {
                "arm": arm,
                "temperature": heat,
                "split": split,
                "chosen": chosen,
                "accuracy": interval(stack(scores), ev.proportion_mean),
                "tokens": interval(stack([_tokens(g) for g in groups]), ev.crossed_mean),
            }
    return None


def _tokens(group: Group) -> dict[str, float]:
    """Mean tokens of each problem's judged samples."""
    kept = {problem: [r.tokens for r in samples if r.gold is not None] for problem, samples in group.items()}
    return {problem: sum(found) / len(found) for problem, found in kept.items() if found}


def _dominates(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """At least as good on both counts, and better on one."""
    up = one["accuracy"]["mean"] - other["accuracy"]["mean"]
    saved = other["tokens"]["mean"] - one["tokens"]["mean"]
    return up >= 0 and saved >= 0 and (up > 0 or saved > 0)
