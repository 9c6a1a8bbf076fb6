"""What falls the gold-gap guard sees: the share of runs that it catches, by the size of the fall and of the dev set.

    python benchmarks/guard_power.py [--runs 200] [--means]

Every run has 20 looks at the same problems, 0/1 scores of which half keep their draw from look to look (as in the claim
`gold-gap-guard-level`). Accuracy rises from 0.3 to 0.6 over 8 looks, falls by the amount over 8 more and stays. Prints
the share of runs with an alarm and, behind it, the median number of looks from the top to the alarm.
"""

from __future__ import annotations

import argparse

import numpy as np

from truegain.methods.guard import GapLook, gold_gap_of_means, judge_look

DROPS, PROBLEMS, TOP = (0.0, 0.05, 0.1, 0.2, 0.3), (64, 128, 256, 512, 1024), 7


def accuracy(drop: float) -> np.ndarray:
    return np.r_[np.linspace(0.3, 0.6, 8), np.linspace(0.6, 0.6 - drop, 9)[1:], np.full(4, 0.6 - drop)]


def first_alarm(drop: float, problems: int, rng: np.random.Generator, means: bool) -> int | None:
    own, rows = rng.random(problems), list[np.ndarray]()
    for chance in accuracy(drop):
        draw = np.where(rng.random(problems) < 0.5, own, rng.random(problems))
        rows.append((draw < chance).astype(np.float64))
    if means:
        step = np.arange(float(len(rows)))
        return gold_gap_of_means(np.array([row.mean() for row in rows]), step, step, problems=problems).first
    looks: list[GapLook] = []
    for step, row in enumerate(rows):
        looks.append(judge_look(looks, step, row, float(step), np.array(rows[:step]).reshape(step, problems)))
        if looks[-1].alarm:
            return step
    return None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--means", action="store_true", help="as if the log held means alone")
    given = parser.parse_args()
    print(f"{'problems':>8}" + "".join(f"{f'-{drop:g}':>14}" for drop in DROPS))
    for problems in PROBLEMS:
        cells: list[str] = []
        for drop in DROPS:
            found = [first_alarm(drop, problems, np.random.default_rng(n), given.means) for n in range(given.runs)]
            caught = [step - TOP for step in found if step is not None]
            after = f" ({np.median(caught):.0f})" if caught else ""
            cells.append(f"{100 * len(caught) / len(found):.0f} %{after}")
        print(f"{problems:>8}" + "".join(f"{cell:>14}" for cell in cells), flush=True)


if __name__ == "__main__":
    main()
