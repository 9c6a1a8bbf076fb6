"""How often the embedded model is right on the tasks it was fitted on, at their default levels, on dev problems.

    python benchmarks/bench_levels.py [--problems 300] [--samples 2]

The rule: a default level is one at which the model is right in 25 to 60 % of its samples at T=1, so that a group of
samples mostly holds right and wrong ones. It is chosen on dev problems, never on test, and holds while the 95 %
interval over problems meets that band; of several such levels the one nearest to its middle. ``neighbours`` are the
levels next to the default ones, of which the choice was made. Results go to benchmarks/results/levels.json; a test
holds the code's defaults to them.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import Any

os.environ.setdefault("GOMP_SPINCOUNT", "0")

import numpy as np

from truegain.core.types import Sampling
from truegain.methods.evaluation import clustered_mean
from truegain.policy.policy import Policy
from truegain.rollout.collect import collect, score_rollouts
from truegain.rollout.engines import engine_for
from truegain.tasks import STYLES, TASKS, Generated, make_one
from truegain.train import tiny
from truegain.train.truth import fixed_problems

RESULTS = Path(__file__).parent / "results" / "levels.json"
BAND = (0.25, 0.60)
SPLIT = "dev"
NEAR = {"add,style=direct": (5, 501, 503, 6), "add,style=trace": (7, 703, 704, 706, 8)}
"""Levels to measure beside the default; elsewhere the ones below and above it."""


def accuracy(policy: Policy, task: Generated, temperature: float, problems: int, samples: int) -> dict[str, float]:
    """Mean over problems with its 95 % interval."""
    asked = fixed_problems(task, SPLIT, problems)
    count = samples if temperature else 1
    how = Sampling(task.max_tokens, temperature)
    drawn = collect(
        policy, engine_for(policy), task, asked, samples=count, sampling=how, seed=0, stage="levels", step=0
    )
    right = np.array([r.facts["correct"] for r in score_rollouts(task, drawn)]).reshape(len(asked), count)
    found = clustered_mean(right)
    return {"mean": found.value, "low": found.low, "high": found.high, "problems": len(asked)}


def meets(row: dict[str, Any]) -> bool:
    """Whether the interval at T=1 meets the band."""
    return row["T=1"]["low"] <= BAND[1] and row["T=1"]["high"] >= BAND[0]


def measured(policy: Policy, spec: str, problems: int, samples: int) -> dict[str, Any]:
    """One cell of the table: the level, and the accuracy at T=1 and greedily."""
    task = make_one(spec)
    row: dict[str, Any] = {"level": task.level}
    row |= {f"T={t:g}": accuracy(policy, task, t, problems, samples) for t in (1.0, 0.0)}
    row["meets"] = meets(row)
    means = (row["T=1"]["mean"], row["T=0"]["mean"])
    print("{:34} level {:4}  T=1 {:.3f}  T=0 {:.3f}".format(spec, task.level, *means), flush=True)
    return row


def near(spec: str) -> list[int]:
    """The levels to measure beside the default one."""
    task = make_one(spec)
    low, high = task.rules.levels
    return [level for level in NEAR.get(spec, (task.level - 1, task.level + 1)) if low <= level <= high]


def main() -> None:
    """Measure every task and style and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--problems", type=int, default=300)
    parser.add_argument("--samples", type=int, default=2)
    options = parser.parse_args()
    policy = Policy.load("tiny")
    learned = {name for _, mixture in tiny.PHASES for name, _ in mixture}
    specs = [f"{name},style={style}" for name in TASKS if name in learned for style in STYLES]
    how = (options.problems, options.samples)
    table = {
        "rule": "the 95 % interval of the accuracy at T=1 meets the band",
        "band": BAND,
        "split": SPLIT,
        "samples": options.samples,
        "defaults": {spec: measured(policy, spec, *how) for spec in specs},
        "neighbours": {
            f"{spec},level={level}": measured(policy, f"{spec},level={level}", *how)
            for spec in specs
            for level in near(spec)
        },
    }
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(table, indent=1) + "\n")


if __name__ == "__main__":
    main()
