"""What the log says: training curves and the compute ledger, thinned to what a page can show."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from truegain.report.load import Run, number

EVAL_KEYS = (
    "step",
    "proxy",
    "proxy_low",
    "proxy_high",
    "gold",
    "gold_low",
    "gold_high",
    "kl",
    "kl_low",
    "kl_high",
    "mean_length",
    "entropy",
)
STEP_KEYS = (
    "step",
    "reward",
    "reward_std",
    "frac_reward_zero_std",
    "kl",
    "entropy",
    "loss",
    "grad_norm",
    "completions/mean_length",
    "completions/clipped_ratio",
    "clip_ratio/region_mean",
    "truegain/abstained",
    "seconds",
)
LEDGER_KEYS = ("sampled", "scored", "probed", "resampled", "trained", "flops")
_MAX_POINTS = 200


def curves(runs: Sequence[Run]) -> dict[str, Any]:
    """Per run, in the runs' order: evaluation points, and training steps averaged into at most 200 points."""
    return {
        "evals": [[{k: number(line.get(k)) for k in EVAL_KEYS} for line in run.evals] for run in runs],
        "steps": [_thin([{k: number(line.get(k)) for k in STEP_KEYS} for line in run.steps]) for run in runs],
    }


def _thin(rows: list[dict[str, float | None]]) -> list[dict[str, float | None]]:
    """Average neighbouring rows until at most `_MAX_POINTS` remain."""
    width = -(-len(rows) // _MAX_POINTS) or 1
    return [_mean_row(rows[i : i + width]) for i in range(0, len(rows), width)]


def _mean_row(rows: Sequence[Mapping[str, float | None]]) -> dict[str, float | None]:
    out: dict[str, float | None] = {}
    for key in STEP_KEYS:
        known = [v for row in rows if (v := row[key]) is not None]
        out[key] = sum(known) / len(known) if known else None
    return out


def ledger(runs: Sequence[Run]) -> dict[str, Any]:
    """Tokens by use, FLOPs, seconds and steps of training: per run and in total. Unknown entries stay out.

    The log's ledger counts from the start of the run, so its last line holds the sum; seconds are per step.
    """
    per_run = [_ledger_of(run) for run in runs]
    keys = [k for k in (*LEDGER_KEYS, "seconds", "steps") if any(k in row for row in per_run)]
    return {"runs": per_run, "total": {k: sum(row.get(k, 0.0) for row in per_run) for k in keys}}


def _ledger_of(run: Run) -> dict[str, float]:
    total: dict[str, float] = {"steps": float(len(run.steps))}
    seconds = [v for line in run.steps if (v := number(line.get("seconds"))) is not None]
    if seconds:
        total["seconds"] = sum(seconds)
    for line in reversed(run.steps):
        entries = line.get("ledger")
        if isinstance(entries, Mapping):
            return total | {k: v for k in LEDGER_KEYS if (v := number(entries.get(k))) is not None}
    return total
