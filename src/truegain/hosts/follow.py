"""The gold-gap guard over a log: a run that is finished, somebody else's, or going on.

Where the scores of every problem were kept (our ``evals/looks.jsonl``, the callback's ``gold_gap_guard.json``) the test
is that of `truegain.methods.guard.gold_gap`; where the log holds means alone, the conservative one of
`gold_gap_of_means`, for which the number of problems has to be said.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from truegain.core.errors import DataError, SettingError, nearest
from truegain.hosts.diagnose import NAMES
from truegain.hosts.logs import Log, number, read_object, read_objects
from truegain.methods.guard import GapLook, GoldGap, gold_gap, gold_gap_of_means, spent_level

MAX_LOOKS = 2000
"""Later looks of a longer log are not judged: the work grows with their square."""
MAX_SCORES = 2_000_000
"""Looks times problems of a log that is judged by scores: a table of them is held, and the evidence is ten of it."""
HOW = {
    "divergence": "while the proxy rose",
    "fall": "and the proxy did not rise",
    "unknown": "and the proxy is unknown",
}
"""The kinds of an alarm in words."""
_LOOKED = ("gold", "truegain/gold", "eval_", "val-", "val/")
"""How metrics of looks begin: a log with one of them has been looked at."""


class NotYet(DataError):
    """The log may still become one that can be judged: it has not begun, or has too few looks."""


@dataclass(frozen=True)
class Choice:
    """A look and its checkpoint, if there is one; gold is the look's."""

    step: int
    gold: float
    proxy: float
    checkpoint: str | None


@dataclass(frozen=True)
class Followed:
    """What the guard says of a log.

    ``scores`` tells whether every problem's scores were there, ``problems`` how many (at the first look). ``by_gold``
    is the look with the most gold, ``by_proxy`` the one with the most proxy (None where no proxy is known).
    """

    host: str
    path: str
    gold_key: str
    proxy_key: str | None
    scores: bool
    problems: int
    level: float
    looks: tuple[GapLook, ...]
    first: GapLook | None
    by_gold: Choice
    by_proxy: Choice | None


def judge_log(
    log: Log,
    *,
    gold: str = "",
    proxy: str = "",
    problems: int | None = None,
    bounds: tuple[float, float] = (0.0, 1.0),
    level: float = 0.05,
    horizon: int = 20,
    margin: float = 0.0,
) -> Followed:
    """Apply the guard's test to a log; ``bounds`` are gold's least and largest value, to which means are scaled.

    Raises DataError for a log without gold, or with gold beyond its bounds, or too many scores, and NotYet, one of
    them, for a log that has no two looks yet; SettingError where the number of problems has to be said, and for the
    settings that `check_settings` refuses.
    """
    check_settings(bounds=bounds, level=level, horizon=horizon, margin=margin)
    knobs: dict[str, Any] = {"level": level, "horizon": horizon, "margin": margin}
    keys = log.keys()
    gold_key = _key(log, "gold", gold, settled=any(key.startswith(_LOOKED) for key in keys))
    proxy_key = _key(log, "proxy", proxy, settled=len(log.series(gold_key)) > 1, needed=False)
    kept = None if gold else _kept(log)
    if kept is not None:
        found, count = gold_gap(*kept, **knobs), len(np.unique(kept[3]))
    else:
        count = problems or _problems(log)
        found = _of_means(log, gold_key, proxy_key, count, bounds, knobs)
    looks = [look for look in found.looks if not math.isnan(look.gold)]
    if len(looks) < 2:
        raise NotYet(f"{log.path} holds {len(looks)} looks with {gold_key!r}; a fall needs 2 to be seen")
    first = next((look for look in found.looks if look.alarm), None)
    by_gold = max(looks, key=lambda look: (look.gold, -look.step))
    known = [look for look in looks if not math.isnan(look.proxy)]
    by_proxy = max(known, key=lambda look: (look.proxy, -look.step)) if known else None
    return Followed(
        log.host, str(log.path), gold_key, proxy_key, kept is not None, count, level, found.looks, first,
        _choice(log, by_gold), by_proxy and _choice(log, by_proxy),
    )  # fmt: skip


def check_settings(*, bounds: tuple[float, float], level: float, horizon: int, margin: float) -> None:
    """Raise SettingError for what no log could be judged by."""
    spent_level(1, level=level, horizon=horizon)
    if not -1 < margin < 1:
        raise SettingError(f"guard: margin={margin} must lie between -1 and 1")
    if not bounds[0] < bounds[1]:
        raise SettingError(f"guard: bounds {bounds[0]:g} to {bounds[1]:g} must rise")


def has_begun(path: Path) -> bool:
    """Whether there is a file at the place, or in the folder, that `read_log` would read as a log."""
    names = ("*.jsonl", "seed-*/log.jsonl", "trainer_state.json", "checkpoint-*/trainer_state.json")
    found = [one for name in names for one in path.glob(name)] if path.is_dir() else [path]
    return any(one.is_file() and one.stat().st_size > 0 for one in found)


def _choice(log: Log, look: GapLook) -> Choice:
    place = log.checkpoint(look.step)
    return Choice(look.step, look.gold, look.proxy, None if place is None else str(place.path))


def _key(log: Log, what: str, given: str, *, settled: bool, needed: bool = True) -> str:
    """The metric that is asked for, or the host's own name of it; if the log is not settled, it may still come."""
    keys, refused = log.keys(), DataError if settled else NotYet
    if given:
        if given not in keys:
            raise refused(f"{log.path} holds no metric {given!r}{nearest(given, set(keys))}")
        return given
    found = next((key for key in NAMES[log.host][what] if key in keys), None)
    if found is None and needed:
        likely = [key for key in keys if any(word in key for word in ("gold", "eval", "val", "acc"))]
        shown = f"; it has {', '.join(likely[:6])}" if likely else ""
        raise refused(
            f"{log.path} holds no {' or '.join(NAMES[log.host][what])}: name an independent score with --gold{shown}"
        )
    return found or ""


def _problems(log: Log) -> int:
    """How many problems a look of ours was at. Raises SettingError where nobody has said it."""
    loop = log.settings.get("settings", {})
    asked = loop.get("loop", {}).get("eval_problems") if isinstance(loop, Mapping) else None
    if log.host == "truegain" and isinstance(asked, int) and asked > 0:
        return asked
    raise SettingError("the log holds means alone: say with --n how many problems gold is the mean of")


Rows = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


def _kept(log: Log) -> Rows | None:
    """Gold, proxy, step and problem of every look and problem, where they were kept and can be read."""
    if log.host == "truegain":
        # A look's rows are there before its line: those of a look that is being written are left out.
        whole = {line["step"] for line in log.lines if line.get("kind") == "eval"}
        lines = read_objects(log.path.parent / "evals" / "looks.jsonl")
        return _rows([line for line in lines if line.get("step") in whole])
    for home in (log.path.parent, log.path.parent.parent):
        kept = read_object(home / "gold_gap_guard.json")
        if log.host == "trl" and kept is not None:
            return _table(kept)
    return None


def _rows(lines: Sequence[Mapping[str, Any]]) -> Rows | None:
    ids: dict[str, int] = {}
    usable = [line for line in lines if number(line.get("step")) is not None and "problem" in line]
    steps = sorted({number(line["step"]) or 0.0 for line in usable})[:MAX_LOOKS]
    usable = [line for line in usable if line["step"] <= steps[-1]] if steps else []
    if not usable:
        return None
    names = {str(line["problem"]) for line in usable}
    if len(steps) * len(names) > MAX_SCORES:
        raise DataError(
            f"guard: {len(steps)} looks at {len(names)} problems are more than {MAX_SCORES:,} scores; name a metric of "
            "the log with --gold and --n to test its means"
        )
    problem = [ids.setdefault(str(line["problem"]), len(ids)) for line in usable]
    columns = ([_value(line.get(name)) for line in usable] for name in ("gold", "proxy", "step"))
    gold, proxy, step = (np.array(column) for column in columns)
    gold = np.where((gold < 0) | (gold > 1), math.nan, gold)
    return gold, proxy, step, np.array(problem)


def _table(kept: Mapping[str, Any]) -> Rows | None:
    looks, scores = kept.get("looks"), kept.get("scores")
    if not isinstance(looks, list) or not isinstance(scores, list) or len(looks) != len(scores):
        return None
    lines: list[Mapping[str, Any]] = []
    for look, row in zip(looks[:MAX_LOOKS], scores[:MAX_LOOKS], strict=True):
        if isinstance(look, Mapping) and isinstance(row, list):
            told = {"step": look.get("step"), "proxy": look.get("proxy")}
            lines += [{**told, "problem": n, "gold": value} for n, value in enumerate(row)]
    return _rows(lines)


def _of_means(
    log: Log, gold_key: str, proxy_key: str, count: int, bounds: tuple[float, float], knobs: Mapping[str, Any]
) -> GoldGap:
    low, high = bounds
    if count < 1:
        raise SettingError(f"guard: {count} problems must be 1 or more")
    looks = dict(list(log.series(gold_key).items())[:MAX_LOOKS])
    gold = (np.array(list(looks.values())) - low) / (high - low)
    if bool(((gold < -1e-9) | (gold > 1 + 1e-9)).any()):
        raise DataError(f"{gold_key!r} leaves its bounds, {low:g} to {high:g}: say with --bounds what they are")
    proxies = _beside(log.series(proxy_key) if proxy_key else {}, list(looks))
    step = np.array(list(looks), dtype=float)
    return gold_gap_of_means(np.clip(gold, 0.0, 1.0), np.array(proxies), step, problems=count, **knobs)


def _beside(series: Mapping[int, float], steps: Sequence[int]) -> list[float]:
    """The proxy at each look: the mean of what was logged since the look before; of the first, what comes first."""
    found: list[float] = []
    for n, step in enumerate(steps):
        since = steps[n - 1] if n else -1
        span = [value for at, value in series.items() if since < at <= step]
        first = next(iter(series.values()), math.nan) if n == 0 else math.nan
        found.append(float(np.mean(span)) if span else first)
    return found


def _value(value: Any) -> float:
    found = number(value)
    return math.nan if found is None else found
