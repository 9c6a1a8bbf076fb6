"""Ten thousand scorings, 5 % of which crash and 5 % hang: is every one accounted for, is any wrong, how many a second.

    python benchmarks/bench_scorings.py [--count 10000] [--places 4] [--deadline 1.0]

Two ways: a function in worker processes (`Workers`), and programs in the sandbox (`Sandbox`). Which scorings crash or
hang, and how, is drawn from a seed. Crashes: ``os._exit``, a segmentation fault, SIGKILL from its own hand, memory
beyond the limit. Hangs: sleep, a busy loop, all signals blocked. Results go to benchmarks/results/scorings.json.
"""

from __future__ import annotations

import argparse
import random
import time
from collections import Counter
from typing import Any

from side_by_side import machine, table, write

from truegain.core.errors import SettingError
from truegain.core.types import Abstain
from truegain.runtime import Limits, Program, Ran, Result, Sandbox, Workers

CRASHES = {
    "exit": "import os; os._exit(9)",
    "fault": "import ctypes; ctypes.string_at(0)",
    "kill": "import os, signal; os.kill(os.getpid(), signal.SIGKILL)",
    "memory": "import os\ntry:\n    held = bytearray(1 << 40)\nexcept MemoryError:\n    os._exit(8)",
}
HANGS = {
    "sleep": "import time; time.sleep(3600)",
    "loop": "while True: pass",
    "blocked": "import signal\nsignal.pthread_sigmask(signal.SIG_BLOCK, range(1, 65))\nwhile True: signal.pause()",
}
MEANING = {
    "right": "sound scorings that gave their value",
    "wrong": "any that gave another value, or a value where it crashed or hung",
    "caught": "crashes and hangs reported as such",
    "missed": "sound scorings that were not answered: an abstention, or a limit reached",
    "per_second": "scorings per second of wall clock, with the hangs waited for",
    "without_hangs_per_second": "the same over the time that is left when each hang's deadline is taken off its place",
}


def score(order: dict[str, Any]) -> int:
    """What the workers call: its value doubled, or a crash or a hang."""
    if order["do"]:
        exec(order["do"], {})
    return 2 * order["value"]


def plan(count: int, seed: int = 0) -> list[dict[str, Any]]:
    """The scorings: 5 % crash and 5 % hang, each in a way of its own."""
    draw = random.Random(seed)
    kinds = ["crash"] * (count // 20) + ["hang"] * (count // 20)
    kinds += [""] * (count - len(kinds))
    draw.shuffle(kinds)
    ways = {"crash": list(CRASHES.values()), "hang": list(HANGS.values()), "": [""]}
    return [{"value": value, "kind": kind, "do": draw.choice(ways[kind])} for value, kind in enumerate(kinds)]


def tally(orders: list[dict[str, Any]], answers: list[Any]) -> Counter[str]:
    """How many were right, wrong, caught and missed; every one is one of these."""
    counted: Counter[str] = Counter()
    for order, answer in zip(orders, answers, strict=True):
        if isinstance(answer, Ran):
            value = int(answer.stdout) if answer.stdout.strip() and answer.exit == 0 and not answer.stopped else None
        else:
            value = answer.value if isinstance(answer, Result) else None
        if value is None:
            counted["caught" if order["kind"] else "missed"] += 1
        else:
            counted["right" if not order["kind"] and value == 2 * order["value"] else "wrong"] += 1
        if isinstance(answer, Abstain):
            counted["abstained"] += 1
    return counted


def in_workers(orders: list[dict[str, Any]], places: int, deadline: float) -> list[Any]:
    """Every scoring in a worker process."""
    with Workers(f"{__file__}:score", places, deadline, memory_mb=512) as workers:
        return list(workers.map(orders))


def in_sandbox(orders: list[dict[str, Any]], places: int, deadline: float) -> list[Any]:
    """Every scoring as a program in the sandbox."""
    programs = [Program(f"{order['do']}\nprint(2 * int(input()))", str(order["value"])) for order in orders]
    with Sandbox(Limits(seconds=deadline), count=places) as box:
        return list(box.map(programs))


def main() -> None:
    """Run both ways, and count."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--places", type=int, default=4)
    parser.add_argument("--deadline", type=float, default=1.0)
    options = parser.parse_args()
    orders = plan(options.count)
    found: dict[str, Any] = {"meaning": MEANING, "machine": machine(), **vars(options)}
    hangs = sum(order["kind"] == "hang" for order in orders)
    rows = []
    for name, way in (("workers", in_workers), ("sandbox", in_sandbox)):
        started = time.perf_counter()
        try:
            answers = way(orders, options.places, options.deadline)
        except SettingError as error:
            found[name] = {"skipped": str(error)}
            continue
        seconds = time.perf_counter() - started
        counted = tally(orders, answers)
        waited = hangs * options.deadline / options.places
        kept = {key: counted[key] for key in ("right", "wrong", "caught", "missed", "abstained")}
        found[name] = {
            **kept,
            "seconds": round(seconds, 1),
            "per_second": round(len(orders) / seconds, 1),
            "without_hangs_per_second": round(len(orders) / max(seconds - waited, 1e-9), 1),
        }
        rows.append((name, *kept.values(), found[name]["per_second"], found[name]["without_hangs_per_second"]))
    write("scorings", found)
    table(("", "right", "wrong", "caught", "missed", "abstained", "a second", "without hangs"), rows)


if __name__ == "__main__":
    main()
