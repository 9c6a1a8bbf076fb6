"""90 seconds of grpo on `sort` and `countdown`, five seeds each: the gain on unseen problems, at T=1 and at its best.

    python benchmarks/bench_gain.py [--tasks sort countdown] [--seconds 90] [--seeds 5] [--out runs/bench-gain]

Runs the shipped command line and reads what its report says. Results go to benchmarks/results/gain.json. A folder
that was finished is not run again, so an interrupted benchmark goes on where it was.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
from pathlib import Path

RESULTS = Path(__file__).parent / "results" / "gain.json"
TASKS = ("sort", "countdown", "sort,style=trace", "countdown,style=trace")


def run(task: str, seconds: float, seeds: int, out: Path) -> dict[str, object]:
    """One task through `truegain train`, and the report's figures."""
    folder = out / task.replace(",", "-").replace("=", "-")
    flags = ["--task", task, "--seeds", str(seeds), "--max-seconds", f"{seconds:g}", "--out", str(folder)]
    if "trace" in task:
        flags += ["--set", "lr=3e-5"]
    command = [sys.executable, "-m", "truegain.cli", "train", "grpo", *flags]
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL)
    from truegain.report import build

    data = build(folder)
    found = {key: data[key] for key in ("gain", "gain_t1", "verdict", "sentence") if key in data}
    steps = [p.read_text().count('"kind": "step"') for p in sorted(folder.glob("seed-*/log.jsonl"))]
    versions = json.loads(next(folder.glob("seed-*/settings.json")).read_text())["versions"]
    return {"command": "truegain " + " ".join(command[3:]), "versions": versions, "steps": steps, **found}


def main() -> None:
    """Run what is asked for and merge it into the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks", nargs="+", default=list(TASKS))
    parser.add_argument("--seconds", type=float, default=90)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path("runs/bench-gain"))
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    results["machine"] = {"cores": os.cpu_count(), "processor": platform.machine(), "python": platform.python_version()}
    for task in options.tasks:
        results.setdefault("tasks", {})[task] = run(task, options.seconds, options.seeds, options.out)
        RESULTS.parent.mkdir(exist_ok=True)
        RESULTS.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
