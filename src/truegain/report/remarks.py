"""What a careful reader would add to the verdict, found in the numbers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from truegain.methods import evaluation as ev
from truegain.report.escape import visible
from truegain.report.guarded import guard_remarks
from truegain.report.load import Record
from truegain.report.tables import BASE, TRAINED, Group, Table, flat, stack
from truegain.report.verdict import NONE, REAL, SHARPER, percent, points, span

CONTROLS = {
    "control:more-sft": (
        "More SFT",
        "fine-tuned longer for the same compute; it saw gold traces, which the trained model never did",
    ),
    "control:random-reward": ("Random reward", "the same training with rewards drawn at random"),
}


def label(arm: str) -> tuple[str, str]:
    """(name, note) of an arm for people."""
    if arm == BASE:
        return "Base model", "before training"
    if arm == TRAINED:
        return "Trained", "after training"
    return CONTROLS.get(arm, (arm.removeprefix("control:"), "control"))


def remarks(data: Mapping[str, Any], tables: Sequence[Table]) -> list[str]:
    """Plain sentences, the weightier first."""
    found = [
        *_close(data),
        *guard_remarks(data.get("guard") or []),
        *_gap(data, tables),
        *_controls(data),
        *_coverage(data),
        *_length(data),
    ]
    runs = _runs(tables) if data["gain"]["mean"] is not None else []
    found += [*_cut_and_abstained(tables), *_unjudged_training(tables), *runs, *_dropped(data), *_skipped(tables)]
    return [visible(text) for text in found]


def _close(data: Mapping[str, Any]) -> list[str]:
    gain = data["gain"]
    if data["verdict"] not in (NONE, SHARPER) or gain["low"] <= 0 <= gain["high"]:
        return []
    side = "above" if gain["low"] > 0 else "below"
    return [f"The 95 % interval lies {side} zero but the 99 % interval, which decides, does not: test more problems."]


def _gap(data: Mapping[str, Any], tables: Sequence[Table]) -> list[str]:
    if data["run"]["proxy_is_gold"]:
        return [
            "Reward and truth are the same exact checker in this run, so no gap between them can exist. What can still "
            "mislead is chance, temperature and the choice of problems."
        ]
    reward, truth = standardised(tables)
    if reward is None or truth is None or reward.low <= 0 or truth.shift >= reward.shift / 2:
        return []
    return [
        f"From base to trained model the reward rose by {reward.mean:.3f}, which is {reward.shift:.1f} standard "
        f"deviations of the base's completions, and the truth by {points(truth.mean)} points, {truth.shift:.1f} of its "
        "own: the model may have learned to please the reward rather than to solve the problems."
    ]


@dataclass(frozen=True)
class Shift:
    """A rise from base to trained model: the mean, the low end of its 95 % interval, and in the base's deviations."""

    mean: float
    low: float
    shift: float


def standardised(tables: Sequence[Table]) -> tuple[Shift | None, Shift | None]:
    """The rise of the reward and of the truth at temperature 1 on test, each in its own unit and in a shared one.

    A reward is in units of its own, so that its rise and accuracy's compare only when each is divided by the standard
    deviation of the base's completions. None for one that is unknown, or that does not vary in the base.
    """
    return _shift(tables, lambda r: r.proxy), _shift(tables, lambda r: r.gold)


def _shift(tables: Sequence[Table], value: Callable[[Record], float | None]) -> Shift | None:
    rows: list[Mapping[str, float]] = []
    spread: list[float] = []
    for t in tables:
        arms = [_means(t.test(arm, 1.0), value) for arm in (BASE, TRAINED)]
        if all(arms):
            rows.append({p: arms[1][p] - arms[0][p] for p in arms[0].keys() & arms[1].keys()})
            spread += [v for r in flat(t.test(BASE, 1.0)) if (v := value(r)) is not None]
    if not any(rows) or not (deviation := float(np.std(spread))):
        return None
    found = ev.crossed_mean(stack(rows))
    return None if np.isnan(found.low) else Shift(found.value, found.low, found.value / deviation)


def _means(group: Group, value: Callable[[Record], float | None]) -> dict[str, float]:
    known = {p: [v for r in samples if (v := value(r)) is not None] for p, samples in group.items()}
    return {p: sum(values) / len(values) for p, values in known.items() if values}


def _controls(data: Mapping[str, Any]) -> list[str]:
    out: list[str] = []
    for arm, row in data["arms"].items():
        over = row.get("trained_minus")
        base = data["arms"][BASE]["best"]
        if arm.startswith("control:") and row["best"] and base and row["best"]["high"] < base["low"]:
            out.append(
                f"The control “{label(arm)[0]}” fell below the base ({percent(row['best']['mean'])} right), so the "
                "distance to it mixes the trained model's gain with the control's damage."
            )
        if not arm.startswith("control:") or over is None or over["low"] > 0:
            continue
        name = label(arm)[0]
        ahead = "is ahead of" if over["high"] < 0 else "cannot be told from"
        why = {
            "control:random-reward": "so this run does not show that the reward was needed",
            "control:more-sft": "so this run does not show more than fine-tuning on gold traces would give",
        }.get(arm, "so this run does not show that the method was needed")
        out.append(f"The control “{name}” {ahead} the trained model (difference {span(over)} points), {why}.")
    return out


def _coverage(data: Mapping[str, Any]) -> list[str]:
    curves = data["pass_at_k"]
    gap = curves and curves["difference"]
    if gap and curves["n"] > 1 and gap["high"] < 0:
        return [
            f"Given {curves['n']} tries at temperature 1 the base solves more problems than the trained model "
            f"({points(gap['mean'])} points for the trained one): training narrowed what the model can reach."
        ]
    return []


def _length(data: Mapping[str, Any]) -> list[str]:
    figure = data["length_matched"]
    if data["verdict"] != REAL or not figure:
        return []
    if figure["difference"] is None:
        return []
    if figure["covered"] < 0.5:
        return [
            f"Lengths changed so much that only {percent(figure['covered'])} of completions have a counterpart of "
            "similar length; the comparison at equal length says little."
        ]
    if figure["difference"]["low"] <= 0:
        return [
            f"At equal length the difference is {points(figure['difference']['mean'])} points and not told from 0 "
            f"({_matched(figure)})."
        ]
    return []


def _matched(figure: Mapping[str, Any]) -> str:
    return f"{figure['matched']} of {figure['wrong']} wrong answers have a counterpart of their length"


def _cut_and_abstained(tables: Sequence[Table]) -> list[str]:
    out: list[str] = []
    for arm in (BASE, TRAINED):
        samples = [r for t in tables for r in flat(t.test(arm, None))]
        if not samples:
            continue
        cut = sum(r.stop == "length" for r in samples) / len(samples)
        abstained = sum(r.gold is None for r in samples) / len(samples)
        if cut > 0.05:
            out.append(f"{label(arm)[0]}: {percent(cut)} of completions were cut off at the token limit.")
        if abstained > 0.01:
            out.append(
                f"{label(arm)[0]}: the checker abstained on {percent(abstained)} of samples; they count nowhere."
            )
    return out


def _unjudged_training(tables: Sequence[Table]) -> list[str]:
    """What the reward refused to judge while training."""
    drawn = lost = 0
    for t in tables:
        loop = (t.run.settings.get("settings") or {}).get("loop") or {}
        drawn += len(t.run.steps) * int(loop.get("prompts", 0)) * int(loop.get("samples", 0))
        lost += sum(int(step.get("truegain/abstained") or 0) for step in t.run.steps)
    if not drawn or lost <= 0.01 * drawn:
        return []
    return [f"In training the reward abstained on {percent(lost / drawn)} of completions; they taught nothing."]


def _runs(tables: Sequence[Table]) -> list[str]:
    if len(tables) == 1:
        return ["One training run. The interval speaks of other problems of this kind, not of other seeds."]
    if len(tables) < 5:
        return [f"{len(tables)} training runs: the interval allows for how runs differ, but few tell little of it."]
    return []


def _dropped(data: Mapping[str, Any]) -> list[str]:
    dropped = (data["gain"] or {}).get("dropped") or 0
    return [f"{dropped} test problems had no judged sample in one of the arms and were left out."] if dropped else []


def _skipped(tables: Sequence[Table]) -> list[str]:
    out: list[str] = []
    for t in tables:
        for file, count in t.run.skipped.items():
            lines = "line was" if count == 1 else "lines were"
            out.append(f"{t.run.name}: {count} unreadable {lines} skipped in {file}.")
    return out
