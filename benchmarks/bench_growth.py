"""How the time of a training step grows with the group, the completion length and the batch: a plot, and no cliff.

    python benchmarks/bench_growth.py [--repeats 5] [--threads 1]

Whole steps of `train.online.train` (sample, score, update) on a random model of the embedded model's shape, one size
at a time doubled from a common middle (a group of one is left out: nothing is learned from it, so it has no update).
Neighbours are compared by time per unit of work: per drawn token for group
and batch; per floating-point operation for the length, as attention's own share grows with it. A cliff would be a
neighbour that costs more than `CLIFF` times as much per unit. Results go to benchmarks/results/growth.json and
growth.svg.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from side_by_side import RESULTS, Side, Worker, asked, in_turn, machine, spread, table, write
from workload import WORKS, Words, Work, forward_operations, policy_of

MIDDLE = replace(WORKS["tiny"], prompts=8, samples=8, tokens=32, start=16)
SIZES: dict[str, tuple[str, tuple[int, ...]]] = {
    "group size": ("samples", (2, 4, 8, 16, 32, 64)),
    "completion tokens": ("tokens", (8, 16, 32, 64, 128, 256)),
    "prompts per step": ("prompts", (1, 2, 4, 8, 16, 32, 64)),
}
CLIFF = 1.3
MEANING = {
    "seconds": "of one step; only their course means something",
    "per_unit": "seconds per drawn token (group size, prompts per step), or per floating-point operation of the update "
    "(completion tokens), over the previous size's, medians; below 1, twice the work takes less than twice the time",
    "worst": "the largest of these; a cliff would be above the limit",
}


def main() -> None:
    """Time every size, in turn; write figures and plot."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    found: dict[str, Any] = {"meaning": MEANING, "machine": machine(), "threads": options.threads, "limit": CLIFF}
    found["sizes"] = {**MIDDLE.__dict__, "dtype": "float32"}
    for name in SIZES:
        with Side(__file__, options.threads, name=name, repeats=options.repeats) as side:
            seconds = {int(size): times for size, times in side.tell("all")["times"].items()}
        found[name] = growth(name, seconds)
        rows = list(zip(seconds, found[name]["seconds"].values(), ["", *found[name]["per_unit"].values()], strict=True))
        table((name, "s per step", "per unit, over the last"), [(n, s["median"], p) for n, s, p in rows])
    found["worst"] = max(max(found[name]["per_unit"].values()) for name in SIZES)
    write("growth", found)
    plot({name: found[name]["seconds"] for name in SIZES})
    print(f"  worst neighbour: {found['worst']:.2f} (limit {CLIFF})")


def growth(name: str, seconds: dict[int, list[float]]) -> dict[str, Any]:
    unit = {size: statistics.median(times) / units(name, size) for size, times in seconds.items()}
    sizes = list(seconds)
    steps = {f"{a} to {b}": round(unit[b] / unit[a], 3) for a, b in itertools.pairwise(sizes)}
    return {"seconds": {str(size): spread(times) for size, times in seconds.items()}, "per_unit": steps}


def work_of(name: str, size: int) -> Work:
    return replace(MIDDLE, **{SIZES[name][0]: size})


def units(name: str, size: int) -> float:
    work = work_of(name, size)
    if name == "completion tokens":
        return forward_operations(work)
    return work.prompts * work.samples * work.tokens


def plot(seconds: dict[str, dict[str, Any]]) -> None:
    """Seconds per step over each size, both axes logarithmic; the dotted line grows in proportion."""
    import matplotlib

    matplotlib.use("svg")
    import matplotlib.pyplot as plt

    plt.rcParams["svg.hashsalt"] = "truegain"
    figure, axes = plt.subplots(1, len(seconds), figsize=(10, 3.2), sharey=True, layout="constrained")
    for axis, (name, by_size) in zip(axes, seconds.items(), strict=True):
        sizes = [int(size) for size in by_size]
        middle = [s["median"] for s in by_size.values()]
        away = [[s["median"] - s["low"] for s in by_size.values()], [s["high"] - s["median"] for s in by_size.values()]]
        axis.errorbar(sizes, middle, yerr=away, marker="o", color="#1f6f8b", capsize=2)
        axis.plot(sizes, [middle[-1] * size / sizes[-1] for size in sizes], ":", color="#888888")
        axis.set_xscale("log", base=2)
        axis.set_yscale("log")
        axis.set_xticks(sizes, [str(size) for size in sizes])
        axis.set_xlabel(name)
    axes[0].set_ylabel("seconds per step")
    figure.savefig(RESULTS / "growth.svg", metadata={"Date": None})


# The side


def serve(name: str, repeats: int) -> None:
    """Time all sizes of one kind in turn."""

    def everything() -> dict[str, Any]:
        with ExitStack() as stack:
            steps = {size: stepper(stack, work_of(name, size)) for size in SIZES[name][1]}
            return {"times": in_turn({str(size): lambda s=s: next(s) for size, s in steps.items()}, repeats)}

    Worker().serve({"all": everything})


def stepper(stack: ExitStack, work: Work) -> Iterator[float]:
    """Take steps, and give the seconds that each one took."""
    import time

    from truegain.recipes import grpo
    from truegain.train.folder import RunFolder
    from truegain.train.online import Setup, train

    place = stack.enter_context(tempfile.TemporaryDirectory())
    folder = stack.enter_context(RunFolder(Path(place) / "run"))
    form = grpo()
    sizes = {"prompts": work.prompts, "samples": work.samples, "max_tokens": work.tokens, "lr": work.lr}
    loop = form.loop.model_copy(update={**sizes, "steps": 1_000_000, "eval_every": 0, "save_every": 0})
    lines = train(Setup(replace(form, loop=loop), policy_of(work), Words(work), folder), lambda: None)
    while True:
        began = time.perf_counter()
        next(lines)
        yield time.perf_counter() - began


if __name__ == "__main__":
    arguments = asked(sys.argv)
    if arguments is None:
        main()
    else:
        serve(**arguments)
