"""What a claim is, how it is run, and the record it leaves."""

from __future__ import annotations

import json
import math
import platform
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from truegain.core.errors import DataError, RunError, SettingError, nearest
from truegain.core.system import SYSTEMS
from truegain.methods.evaluation import clustered_mean
from truegain.train.folder import plain, write_atomic

RECORDS = Path(__file__).parent / "records"
MIN_SEEDS = 5


@dataclass(frozen=True)
class Claim:
    """The experiment that shows a system's distinctive effect at toy scale. Everything is fixed before it is run.

    ``states`` says in a sentence what is compared. ``one_seed(seed)`` runs all arms, matched on compute, and returns
    the number of each arm by name; ``effect`` turns them into the paired effect. *Reproduced* means that the 95 %
    interval of the effect over ``seeds`` lies above ``threshold``; with ``margin`` instead, that it lies within
    ``[-margin, margin]``: the arms tie.
    """

    name: str
    system: str
    states: str
    unit: str
    one_seed: Callable[[int], Mapping[str, float]]
    effect: Callable[[Mapping[str, float]], float]
    threshold: float | None = None
    margin: float | None = None
    seeds: int = MIN_SEEDS

    def __post_init__(self) -> None:
        """Raise SettingError unless there is one criterion and enough seeds."""
        if (self.threshold is None) == (self.margin is None):
            raise SettingError(f"claim {self.name}: give a threshold or an equivalence margin, one of the two")
        if self.seeds < MIN_SEEDS:
            raise SettingError(f"claim {self.name}: {self.seeds} seeds are too few; at least {MIN_SEEDS}")


def verdict_of(claim: Claim, low: float, high: float) -> str:
    """``reproduced`` or ``not reproduced``, from the effect's 95 % interval alone."""
    if claim.threshold is not None:
        return "reproduced" if low > claim.threshold else "not reproduced"
    assert claim.margin is not None
    return "reproduced" if -claim.margin < low and high < claim.margin else "not reproduced"


def run(claim: Claim, had: Sequence[Mapping[str, Any]] = (), seconds: float = 0.0) -> Iterator[dict[str, Any]]:
    """Run every seed; yield ``{"seed", "arms", "effect", "seconds"}`` for each, and the whole record last.

    ``had`` are rows of seeds that were run before, in ``seconds`` together: they are not run again.
    """
    _system(claim)
    rows = [dict(row) for row in had]
    for seed in sorted(set(range(claim.seeds)) - {row["seed"] for row in rows}):
        began = time.perf_counter()
        arms = dict(claim.one_seed(seed))
        rows.append({"seed": seed, "arms": arms, "effect": claim.effect(arms)})
        took = time.perf_counter() - began
        seconds += took
        yield {**rows[-1], "seconds": took}
    yield record_of(claim, sorted(rows, key=lambda row: row["seed"]), seconds)


def record_of(claim: Claim, rows: list[dict[str, Any]], seconds: float) -> dict[str, Any]:
    """The record that is committed: numbers, interval, verdict, versions, seconds.

    Raises RunError for rows that are not one per seed, or an effect that is not finite: no seed may drop out unseen.
    """
    lost = [row["seed"] for row in rows if not math.isfinite(row["effect"])]
    if lost or len(rows) != claim.seeds:
        what = f"the effect of seed {lost[0]} is not finite" if lost else f"{len(rows)} of {claim.seeds} seeds were run"
        raise RunError(f"claim {claim.name}: {what}, so there is no verdict; mend the claim's arms and run it again")
    found = clustered_mean(np.array([[row["effect"]] for row in rows]))
    system = _system(claim)
    packages = ("truegain", "torch", "transformers")
    return {
        "name": claim.name,
        "paper": system.paper,
        "system": claim.system,
        "states": claim.states,
        "unit": claim.unit,
        "threshold": claim.threshold,
        "margin": claim.margin,
        "seeds": claim.seeds,
        "rows": rows,
        "effect": {"mean": found.value, "low": found.low, "high": found.high},
        "verdict": verdict_of(claim, found.low, found.high),
        "differs": system.differs,
        "seconds": round(seconds, 1),
        "versions": {"python": platform.python_version()} | {name: version(name) for name in packages},
    }


def _system(claim: Claim) -> Any:
    if claim.system not in SYSTEMS:
        hint = nearest(claim.system, set(SYSTEMS))
        raise SettingError(f"claim {claim.name}: there is no system {claim.system!r}{hint}; name a registered one")
    return SYSTEMS[claim.system]


def write_record(record: Mapping[str, Any], folder: Path = RECORDS) -> Path:
    """Write ``records/NAME.json``, replacing the old one at once. Raises RunError when the disk is full."""
    folder.mkdir(exist_ok=True)
    path = folder / f"{record['name']}.json"
    write_atomic(path, json.dumps(plain(record, "record"), indent=1, allow_nan=False) + "\n")
    return path


def read_records(folder: Path = RECORDS) -> dict[str, dict[str, Any]]:
    """The committed records by name. Raises DataError for one that is not a JSON object."""
    found: dict[str, dict[str, Any]] = {}
    for path in sorted(folder.glob("*.json")) if folder.is_dir() else ():
        try:
            record = json.loads(path.read_bytes())
        except (OSError, ValueError) as error:
            raise DataError(f"{path} is not JSON ({error}); run `truegain claims run {path.stem}` again") from error
        if not isinstance(record, dict):
            raise DataError(f"{path} is not a JSON object; run `truegain claims run {path.stem}` again")
        found[path.stem] = record
    return found
