"""Problems won and lost, side by side."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from truegain.report.escape import visible
from truegain.report.load import Record
from truegain.report.tables import BASE, TRAINED, Table, problem_scores

_SHOWN = 3


def examples(tables: Sequence[Table]) -> dict[str, Any] | None:
    """Up to three problems won and three lost by training, from the first run, each model at its best temperature.

    The clearest come first (largest difference, then problem id); the counts are of all problems of that run.
    """
    for table in tables:
        before, after = table.test(BASE, None), table.test(TRAINED, None)
        if before and after:
            break
    else:
        return None
    old, new = problem_scores(before), problem_scores(after)
    gaps = {p: new[p] - old[p] for p in new.keys() & old.keys()}
    won = sorted((p for p in gaps if gaps[p] > 0), key=lambda p: (-gaps[p], p))
    lost = sorted((p for p in gaps if gaps[p] < 0), key=lambda p: (gaps[p], p))
    both_right = sum(new[p] == 1.0 and old[p] == 1.0 for p in gaps)
    return {
        "won": [_pair(before[p], after[p], 0.0, 1.0, old[p], new[p]) for p in won[:_SHOWN]],
        "lost": [_pair(before[p], after[p], 1.0, 0.0, old[p], new[p]) for p in lost[:_SHOWN]],
        "counts": {"won": len(won), "lost": len(lost), "same": len(gaps) - len(won) - len(lost), "right": both_right},
    }


def _pair(
    before: Sequence[Record], after: Sequence[Record], want_old: float, want_new: float, old: float, new: float
) -> dict[str, Any]:
    first = before[0]
    return {
        "problem": visible(first.problem, limit=200),
        "prompt": visible(first.prompt),
        "answer": visible(first.answer, limit=200),
        "base": _shown(before, want_old) | {"rate": old, "samples": len(before)},
        "trained": _shown(after, want_new) | {"rate": new, "samples": len(after)},
    }


def _shown(samples: Sequence[Record], wanted: float) -> dict[str, Any]:
    """The first sample whose score is nearest to the wanted one."""
    judged = [r for r in samples if r.gold is not None]
    best = min(judged, key=lambda r: (abs((r.gold or 0.0) - wanted), r.sample))
    return {
        "text": visible(best.text, length=best.text_length),
        "final": None if best.final is None else visible(best.final, limit=200),
        "gold": best.gold,
        "tokens": best.tokens,
        "stop": visible(best.stop, limit=20),
        "temperature": best.temperature,
    }
