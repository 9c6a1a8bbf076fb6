"""What the gold-gap guard said of a run: its alarm, and the checkpoint with the most gold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from truegain.report.load import Run, number
from truegain.report.verdict import percent, points


def guarded(run: Run) -> dict[str, Any] | None:
    """The guard's level and action, its first alarm (step, kind, how far gold had fallen) and the best look's step.

    None for a run without a guard.
    """
    known = [line for line in run.guard if number(line.get("step")) is not None]
    if not known:
        return None
    last = known[-1]
    first = next((line for line in known if line.get("alarm")), None)
    alarm = first and {
        "step": number(first.get("step")),
        "kind": str(first.get("alarm"))[:40],
        "gap": number(first.get("truegain/gold_gap")),
        "low": number(first.get("low")),
        "best": number(first.get("truegain/gold_best_step")),
    }
    facts = {"looks": len(known), "level": number(last.get("level")), "action": str(last.get("action"))[:40]}
    return {**facts, "alarm": alarm, "best": number(last.get("truegain/gold_best_step"))}


def guard_remarks(found: Sequence[Mapping[str, Any] | None]) -> list[str]:
    """A sentence per guarded run, alarms first."""
    many = len(found) > 1
    said = [(one["alarm"] is None, n, one) for n, one in enumerate(found) if one is not None]
    return [_remark(one, f"Run {n + 1}: the" if many else "The") for _, n, one in sorted(said, key=lambda x: x[:2])]


def _remark(one: Mapping[str, Any], who: str) -> str:
    level = percent(one["level"] or 0.0)
    best = _step(one["best"])
    if one["alarm"] is None:
        return (
            f"{who} gold-gap guard saw no fall in {one['looks']} looks at dev (a healthy run raises an alarm with "
            f"probability {level} at most); most gold at {best}. It audits what happened and foretells nothing."
        )
    alarm = one["alarm"]
    how = ", while the proxy rose" if alarm["kind"] == "divergence" else ""
    then = {"rollback": f" The run was rolled back to {_step(alarm['best'])}.", "pause": " It paused the run."}
    gap = f"{points(alarm['gap'])} points" if alarm["gap"] is not None else "an unknown amount"
    return (
        f"{who} gold-gap guard raised an alarm at {_step(alarm['step'])}: truth on dev was {gap} below "
        f"{_step(alarm['best'])}{how} (a false alarm has probability {level} at most over the whole run)."
        f"{then.get(one['action'], '')} Most gold: {best}."
    )


def _step(step: float | None) -> str:
    return "an unknown step" if step is None else f"step {step:.0f}" if step else "the start"
