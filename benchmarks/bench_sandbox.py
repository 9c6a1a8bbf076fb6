"""What a run in the sandbox costs: a fork of the process inside against a sandbox started for each run, and none.

    python benchmarks/bench_sandbox.py [--repeats 101]

Each way runs ``print(int(input()) * 2)`` once per turn, all ways in turn, so that the machine's other load falls on
all of them alike. Ways: *warm* (a box that forks for each run), *files* (the same, with a file in its folder, so that
the scratch space is replaced), *unit test* (program and test in two boxes), *cold* (``hostile=True``: a box started
for each run), under both backends where they work, and a plain ``python -I -S`` without any sandbox. Results go to
benchmarks/results/sandbox.json.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

from side_by_side import machine, table, write

from truegain.core.errors import SettingError
from truegain.runtime import Check, Ran, Sandbox, Verdict

SOURCE = "print(int(input()) * 2)"
MEANING = {
    "milliseconds": "wall clock of one run as the caller sees it: median, quartiles, least and most over the repeats",
    "cold_over_warm": "how many times longer a run in a sandbox of its own takes than one in a warm box, by medians",
}


def main() -> None:
    """Time all ways in turn."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=101)
    repeats = parser.parse_args().repeats
    found: dict[str, Any] = {"meaning": MEANING, "machine": machine(), "skipped": {}}
    with ExitStack() as stack:
        ways = _ways(stack, found["skipped"])
        times: dict[str, list[float]] = {name: [] for name in ways}
        for turn in range(repeats + 1):
            for name, way in ways.items():
                started = time.perf_counter()
                way()
                if turn:  # the first starts the warm boxes
                    times[name].append(1000 * (time.perf_counter() - started))
    found["milliseconds"] = {name: _summary(values) for name, values in times.items()}
    medians = {name: statistics.median(values) for name, values in times.items()}
    found["cold_over_warm"] = {
        backend: round(medians[f"{backend} cold"] / medians[f"{backend} warm"], 1)
        for backend in ("bubblewrap", "landlock")
        if f"{backend} cold" in medians
    }
    write("sandbox", found)
    head = ("one run, ms", "median", "quartiles", "least", "most")
    rows = [
        (n, f["median"], f"{f['lower']:.3g} to {f['upper']:.3g}", f["least"], f["most"])
        for n, f in found["milliseconds"].items()
    ]
    table(head, rows)


def _ways(stack: ExitStack, skipped: dict[str, str]) -> dict[str, Callable[[], None]]:
    ways: dict[str, Callable[[], None]] = {"no sandbox": _plain}
    for backend in ("bubblewrap", "landlock"):
        try:
            warm = stack.enter_context(Sandbox(backend=backend))
            cold = stack.enter_context(Sandbox(backend=backend, hostile=True))
        except SettingError as error:
            skipped[backend] = str(error)
            continue
        ways[f"{backend} warm"] = lambda box=warm: _run(box)
        ways[f"{backend} files"] = lambda box=warm: _run(box, {"data.txt": "x"})
        ways[f"{backend} unit test"] = lambda box=warm: _check(box)
        ways[f"{backend} cold"] = lambda box=cold: _run(box)
    return ways


def _plain() -> None:
    done = subprocess.run([sys.executable, "-I", "-S", "-c", SOURCE], input=b"21", capture_output=True, check=True)
    assert done.stdout == b"42\n"


def _run(box: Sandbox, files: dict[str, str] | None = None) -> None:
    ran = box.run(SOURCE, stdin="21", files=files)
    assert isinstance(ran, Ran) and ran.stdout == "42\n", ran


def _check(box: Sandbox) -> None:
    found = box.check(Check("def f(x):\n    return 2 * x\n", "assert f(21) == 42"))
    assert found == Verdict(True), found


def _summary(values: list[float]) -> dict[str, float]:
    lower, _, upper = statistics.quantiles(values, n=4)
    kept = {
        "median": statistics.median(values),
        "lower": lower,
        "upper": upper,
        "least": min(values),
        "most": max(values),
    }
    return {name: float(f"{value:.4g}") for name, value in kept.items()} | {"repeats": len(values)}


if __name__ == "__main__":
    main()
