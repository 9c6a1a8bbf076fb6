"""What a recipe inside TRL costs: `TruegainGRPOTrainer` with grpo against plain `GRPOTrainer`, seconds per step.

    python benchmarks/bench_trl_shell.py [--works 3.3M tiny] [--repeats 9] [--threads 1]

The same random model, prompts, groups, completion tokens, optimiser and trivial reward on both sides (see bench_trl.py
and workload.py). Each side runs in a fresh process; the parent tells them in turn to take steps, so a neighbour's burst
hits both. Results go to benchmarks/results/trl_shell.json.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import warnings
from contextlib import ExitStack
from typing import Any

from side_by_side import RESULTS, Side, Worker, asked, machine, ratios, spread, table, write
from workload import WORKS, model_of

STEPS = {"3.3M": 1, "tiny": 3}  # per timed piece
SIDES = {"plain": "", "shell": "grpo"}
WANTED = 1.05
MEANING = {
    "overhead": "seconds per step of TruegainGRPOTrainer, recipe grpo, over those of GRPOTrainer, repeat by repeat",
    "processor": "the same ratio of the seconds that the process itself computed, which a neighbour changes less: the "
    "figure to hold where load is above the number of cores",
    "seconds_per_step": "only for the ratio: they belong to this machine and its load",
}


def main() -> None:
    """Time both trainers in turn on every work."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--works", nargs="+", default=list(WORKS), choices=list(WORKS))
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    found: dict[str, Any] = {"meaning": MEANING, "machine": machine("trl", "accelerate"), "threads": options.threads}
    found["works"] = before()
    for name in options.works:
        found["works"][name] = measure(name, options.threads, options.repeats)
        write("trl_shell", found)
    rows = [
        (name, kind, one[kind]["median"], one[kind]["low"], one[kind]["high"], WANTED)
        for name, one in found["works"].items()
        for kind in ("overhead", "processor")
    ]
    table(("work", "ratio of", "median", "low", "high", "at most"), rows)


def before() -> dict[str, Any]:
    """What another call of this benchmark found."""
    file = RESULTS / "trl_shell.json"
    return json.loads(file.read_text())["works"] if file.exists() else {}


def measure(name: str, threads: int, repeats: int) -> dict[str, Any]:
    """One work: a warm step of each side, then both in turn, each first in every second round."""
    seconds: dict[str, list[float]] = {side: [] for side in SIDES}
    processor: dict[str, list[float]] = {side: [] for side in SIDES}
    with ExitStack() as stack:
        sides = {side: stack.enter_context(Side(__file__, threads, side=side, work=name)) for side in SIDES}
        for round_ in range(-1, repeats):
            for side in sorted(SIDES, reverse=bool(round_ % 2)):
                took = sides[side].tell("step")
                if round_ >= 0:
                    seconds[side].append(took["seconds"] / STEPS[name])
                    processor[side].append(took["processor"] / STEPS[name])
    return {
        "sizes": dict(WORKS[name].__dict__),
        "load": [round(x, 2) for x in os.getloadavg()],
        "overhead": {**ratios(seconds["shell"], seconds["plain"]), "wanted": WANTED},
        "processor": {**ratios(processor["shell"], processor["plain"]), "wanted": WANTED},
        "seconds_per_step": {side: spread(values) for side, values in seconds.items()},
    }


def serve(side: str, work: str) -> None:
    """Be one side until the parent has gone."""
    from training_sides import serve_trl

    warnings.filterwarnings("ignore")
    serve_trl(Worker(), WORKS[work], STEPS[work], model_of(WORKS[work]), bf16=False, recipe=SIDES[side])


if __name__ == "__main__":
    arguments = asked(sys.argv)
    if arguments is None:
        main()
    else:
        serve(**arguments)
