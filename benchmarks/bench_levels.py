"""How often the embedded model is right on each task at its default level, at T=1 and greedily, on dev problems.

    python benchmarks/bench_levels.py [--problems 300] [--samples 2]

Results, with 95 % intervals over problems, go to benchmarks/results/levels.json. The default levels were chosen from
such a table, so that the sampled accuracy lies between 25 and 60 % where a level does that.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

os.environ.setdefault("GOMP_SPINCOUNT", "0")

import numpy as np

from truegain.core.types import Sampling
from truegain.methods.evaluation import clustered_mean
from truegain.policy.policy import Policy
from truegain.rollout.collect import collect, score_rollouts
from truegain.rollout.engines import engine_for
from truegain.tasks import STYLES, TASKS, Generated, make_one
from truegain.train.truth import fixed_problems

RESULTS = Path(__file__).parent / "results" / "levels.json"


def accuracy(policy: Policy, task: Generated, temperature: float, problems: int, samples: int) -> dict[str, float]:
    """Mean over problems with its 95 % interval."""
    asked = fixed_problems(task, "dev", problems)
    count = samples if temperature else 1
    how = Sampling(task.max_tokens, temperature)
    drawn = collect(
        policy, engine_for(policy), task, asked, samples=count, sampling=how, seed=0, stage="levels", step=0
    )
    right = np.array([r.facts["correct"] for r in score_rollouts(task, drawn)]).reshape(len(asked), count)
    found = clustered_mean(right)
    return {"mean": found.value, "low": found.low, "high": found.high, "problems": len(asked)}


def main() -> None:
    """Measure every task and style and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--problems", type=int, default=300)
    parser.add_argument("--samples", type=int, default=2)
    options = parser.parse_args()
    policy = Policy.load("tiny")
    table: dict[str, object] = {}
    for name in TASKS:
        for style in STYLES:
            task = make_one(f"{name},style={style}")
            row = {f"T={t:g}": accuracy(policy, task, t, options.problems, options.samples) for t in (1.0, 0.0)}
            table[f"{name},style={style}"] = {"level": task.level, **row}
            print(
                f"{name:11} {style:6} level {task.level:2}  T=1 {row['T=1']['mean']:.3f}  T=0 {row['T=0']['mean']:.3f}"
            )
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(table, indent=1) + "\n")


if __name__ == "__main__":
    main()
