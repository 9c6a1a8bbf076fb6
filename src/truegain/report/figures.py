"""The figures beside the verdict: pass@k, equal length, calibration. Statistics only; nothing here draws."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from truegain.core.errors import DataError
from truegain.methods import evaluation as ev
from truegain.report.load import Record
from truegain.report.tables import BASE, TRAINED, Group, Table, gold, interval, problem_ids, stack

_MAX_K = 64
MIN_MATCHED, MIN_MATCHED_SHARE = 20, 0.1
"""Wrong answers, and share of all of them, that must have a counterpart of their length for a difference."""


def pass_curves(tables: Sequence[Table], arms: Sequence[str]) -> dict[str, Any] | None:
    """Unbiased pass@k at temperature 1 for k = 1..n, for each arm, and trained minus base at n.

    n is what nine problems of ten have valid samples for in every arm; problems with fewer are left out and counted.
    """
    groups = {arm: [g for t in tables if (g := t.test(arm, 1.0))] for arm in arms}
    groups = {arm: found for arm, found in groups.items() if found}
    if not groups:
        return None
    counts = [np.array([_valid(s)[0] for s in g.values()]) for found in groups.values() for g in found]
    n = min(_MAX_K, *(int(np.quantile(c, 0.1, method="lower")) for c in counts))
    if n < 1:
        return None
    ks = list(range(1, n + 1)) if n <= 16 else sorted({1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, n} & set(range(n + 1)))
    curves: dict[str, Any] = {}
    at_n: dict[str, np.ndarray] = {}
    for arm, found in groups.items():
        matrices = [stack([_pass(g, k, n) for g in found]) for k in ks]
        rows = [interval(m, ev.proportion_mean) for m in matrices]
        at_n[arm] = matrices[-1]
        curves[arm] = {key: [row[key] for row in rows] for key in ("mean", "low", "high")}
        curves[arm]["problems"] = rows[-1]["problems"]
    return {"k": ks, "n": n, "arms": curves, "difference": _difference_at_n(tables, n)}


def _difference_at_n(tables: Sequence[Table], n: int) -> dict[str, Any] | None:
    rows: list[dict[str, float]] = []
    for t in tables:
        a, b = (_pass(t.test(arm, 1.0), n, n) for arm in (TRAINED, BASE))
        rows.append({p: a[p] - b[p] for p in a.keys() & b.keys()})
    rows = [row for row in rows if row]
    return interval(stack(rows)) if rows else None


def _valid(samples: Sequence[Record]) -> tuple[int, int]:
    """(judged samples, right ones)."""
    judged = [r.gold for r in samples if r.gold is not None]
    return len(judged), sum(g > 0.5 for g in judged)


def _pass(group: Group, k: int, n: int) -> dict[str, float]:
    """pass@k of each problem that has at least ``n`` judged samples."""
    counted = {p: _valid(s) for p, s in group.items()}
    kept = {p: c for p, c in counted.items() if c[0] >= n}
    if not kept:
        return {}
    values = ev.pass_at_k(np.array([c[0] for c in kept.values()]), np.array([c[1] for c in kept.values()]), k=k)
    return dict(zip(kept, values.tolist(), strict=True))


def length_figure(tables: Sequence[Table]) -> dict[str, Any] | None:
    """Base and trained, each at its best temperature, compared within common lengths; runs pooled.

    ``difference`` is None where too few problems can be matched: where wrong answers have lengths of their own, equal
    length means equally right, and a difference of 0 would say nothing.
    """
    arms = [_equal_runs([t.test(arm, None) for t in tables]) for arm in (BASE, TRAINED)]
    if not all(arms):
        return None
    ids = problem_ids([*arms[0], *arms[1]])
    cut = len(arms[0])
    lengths = [np.array([r.tokens for r in arm], dtype=np.float64) for arm in arms]
    matched = ev.length_matched(lengths[0], gold(arms[0]), ids[:cut], lengths[1], gold(arms[1]), ids[cut:])
    enough = matched.matched >= max(MIN_MATCHED, MIN_MATCHED_SHARE * matched.wrong)
    return {
        "base": matched.accuracy_a,
        "trained": matched.accuracy_b,
        "difference": _interval(matched.difference) if enough else None,
        "wrong": matched.wrong,
        "matched": matched.matched,
        "covered": matched.covered,
        "mean_tokens": {"base": float(lengths[0].mean()), "trained": float(lengths[1].mean())},
        "strata": [asdict(s) for s in matched.strata],
    }


def _equal_runs(groups: Sequence[Group]) -> list[Record]:
    """Judged samples of all runs, equally many per problem from each, though one run may have been tested greedily."""
    most = min((max(map(len, group.values())) for group in groups if group), default=0)
    return [r for group in groups for samples in group.values() for r in samples[:most] if r.gold is not None]


def _interval(e: ev.Estimate) -> dict[str, float]:
    return {"mean": e.value, "low": e.low, "high": e.high}


def calibration_figure(tables: Sequence[Table]) -> dict[str, Any] | None:
    """How often an answer is right against how many of the problem's other samples agree with it, at temperature 1."""
    found: dict[str, Any] = {}
    for arm in (BASE, TRAINED):
        confidence, right, names = _agreement(tables, arm)
        try:
            got = ev.calibration(confidence, right, names)
        except DataError:
            continue
        found[arm] = {
            "ece": _interval(got.ece),
            "signed": _interval(got.signed),
            "brier": got.brier,
            "samples": int(confidence.size),
            "bins": [asdict(b) for b in got.bins],
        }
    return found or None


def _agreement(tables: Sequence[Table], arm: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Confidence [N], rightness [N] and problem [N] of all judged samples of problems that have at least two."""
    confidence: list[float] = []
    right: list[float] = []
    names: list[int] = []
    numbers: dict[str, int] = {}
    for t in tables:
        for problem, samples in t.test(arm, 1.0).items():
            if len(samples) < 2:
                continue
            share = ev.self_consistency(ev.answer_clusters([r.final for r in samples]))
            for value, record in zip(share.tolist(), samples, strict=True):
                if record.gold is not None:
                    confidence.append(value)
                    right.append(record.gold)
                    names.append(numbers.setdefault(problem, len(numbers)))
    return np.array(confidence, dtype=np.float64), np.array(right, dtype=np.float64), np.array(names, dtype=np.int64)
