"""What the benchmarks share: sides timed in turn, each in a fresh process with its own threads; medians and spread.

A *side* is a Python process started from a benchmark's own file with ``--worker '{...}'``. It prepares its work, says
it is ready, and then does one piece each time it is told to. The parent tells the sides in turn, so that a burst of a
neighbour hits all of them, and only one works at a time. `in_turn` is the same for functions of one process.
"""

from __future__ import annotations

import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
# On all sides alike, waiting OpenMP threads sleep instead of spinning: with a neighbour on a core, spinning collapses
ENVIRONMENT = {
    "GOMP_SPINCOUNT": "0",
    "TOKENIZERS_PARALLELISM": "false",
    "HF_HUB_OFFLINE": "1",
    "WANDB_MODE": "disabled",
}
MEGABYTE = 2**20


class Side:
    """The parent's end of a side: ``tell("step")`` waits for what the work named so gives, a mapping."""

    def __init__(self, script: str, threads: int, **what: Any) -> None:
        environment = {**os.environ, **ENVIRONMENT, "OMP_NUM_THREADS": str(threads)}
        command = [sys.executable, script, "--worker", json.dumps(what)]
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        self.process = subprocess.Popen(command, env=environment, **pipes)
        self.started = self._hear()

    def tell(self, work: str) -> dict[str, Any]:
        assert self.process.stdin
        self.process.stdin.write(work + "\n")
        self.process.stdin.flush()
        return self._hear()

    def _hear(self) -> dict[str, Any]:
        assert self.process.stdout
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"a side ended early (exit {self.process.wait()}): {self.process.args[-1]}")
        return json.loads(line)

    def __enter__(self) -> Side:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate()


class Worker:
    """The side's own end. Whatever its libraries print goes to stderr; stdout is the line to the parent."""

    def __init__(self) -> None:
        self._out = os.fdopen(os.dup(1), "w", buffering=1)
        os.dup2(2, 1)

    def ready(self, **facts: Any) -> None:
        self.say(**facts)

    def say(self, **facts: Any) -> None:
        self._out.write(json.dumps(facts) + "\n")

    def next(self) -> str:
        """The next piece of work; ends the process when the parent has gone."""
        line = sys.stdin.readline()
        if not line:
            os._exit(0)
        return line.strip()

    def serve(self, works: Mapping[str, Callable[[], Mapping[str, Any]]]) -> None:
        """Do what is asked for by name until the parent has gone. ``seconds`` is added where the work gives none."""
        self.ready(memory=memory())
        while True:
            work = works[self.next()]
            began = time.perf_counter()
            facts = dict(work())
            self.say(**{"seconds": time.perf_counter() - began, **facts})


def asked(script_arguments: Sequence[str]) -> dict[str, Any] | None:
    """What this process was started for, when it is a side; None in the parent."""
    if "--worker" not in script_arguments:
        return None
    return json.loads(script_arguments[script_arguments.index("--worker") + 1])


def memory() -> dict[str, float]:
    """Resident megabytes now and at their peak."""
    pages = int(Path("/proc/self/statm").read_text().split()[1]) if Path("/proc/self/statm").exists() else 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (MEGABYTE if sys.platform == "darwin" else 1024)
    return {"now_mb": pages * resource.getpagesize() / MEGABYTE, "peak_mb": peak}


def in_turn(works: Mapping[str, Callable[[], float | None]], repeats: int, warm: int = 1) -> dict[str, list[float]]:
    """Seconds of each work, ``repeats`` rounds of all in turn after ``warm`` untimed ones; a work may time itself."""
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for round_ in range(-warm, repeats):
        for name, work in works.items():
            began = time.perf_counter()
            own = work()
            took = time.perf_counter() - began if own is None else own
            if round_ >= 0:
                seconds[name].append(took)
    return seconds


def spread(values: Sequence[float]) -> dict[str, Any]:
    """Median with the lowest and the highest, rounded to four digits."""
    low, mid, high = (float(f"{v:.4g}") for v in (min(values), statistics.median(values), max(values)))
    return {"median": mid, "low": low, "high": high, "repeats": len(values)}


def ratios(slow: Sequence[float], fast: Sequence[float]) -> dict[str, Any]:
    """How many times longer ``slow`` took than ``fast``, repeat by repeat."""
    return spread([a / b for a, b in zip(slow, fast, strict=True)])


def best(seconds: Mapping[Any, Sequence[float]]) -> Any:
    """The setting with the least median."""
    return min(seconds, key=lambda key: statistics.median(seconds[key]))


def machine(*packages: str) -> dict[str, Any]:
    """Cores, load and versions, as they stand in every results file."""
    found: dict[str, str] = {}
    for name in ("truegain", "torch", "transformers", *packages):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "absent"
    return {
        "cores": os.cpu_count(),
        "load_before": [round(x, 2) for x in os.getloadavg()],
        "processor": _processor(),
        "python": platform.python_version(),
        "versions": found,
        "environment": {"GOMP_SPINCOUNT": "0"},
    }


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        flags = info.read_text()
        wide = next((name for name in ("amx_bf16", "avx512_bf16", "avx512f", "avx2") if name in flags), "")
        return f"{platform.machine()} {wide}".strip()
    return platform.machine()


def write(name: str, results: Mapping[str, Any]) -> None:
    """Put the results beside the script."""
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps(results, indent=1) + "\n")


def table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Print rows under a head, columns wide enough."""
    cells = [[f"{c:.3g}" if isinstance(c, float) else str(c) for c in row] for row in (head, *rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(head))]
    for row in cells:
        print(
            "  " + "  ".join(c.rjust(w) if i else c.ljust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True)))
        )
