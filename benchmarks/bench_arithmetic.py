"""The arithmetic of whole recipes at 1024 rows of 1024 tokens, against one update of a model of half a billion.

    python benchmarks/bench_arithmetic.py [--rows 1024] [--tokens 1024] [--repeats 5] [--only grpo trpa]

Everything between the rollouts' columns and the gradient of the log-probs: reward, selection, credit, plan, weights,
and each surrogate forward and backward in micro-batches of 64 rows. Probes, resamplers and models are left out: they
are charged to the ledger (see bench_probes.py). All recipes run in turn, in one process with one thread, on random
columns with 8 rows a group and 32 tokens a step. Results go to benchmarks/results/arithmetic.json.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from side_by_side import in_turn, machine, spread, table, write

PARAMETERS = 494_000_000  # Qwen2-0.5B, embeddings included
MICRO_ROWS, STEP_TOKENS, GROUP = 64, 32, 8
WANTED = 0.02
MEANING = {
    "share": "seconds of the arithmetic over seconds of one update; an update is 6 * parameters * tokens operations at "
    "the rate that torch.mm reaches here on 1024 x 896 by 896 x 4864 (float32, one thread, the fastest of its "
    "rounds): what a real update takes is more, so the share is an upper bound",
    "passes": "seconds of the arithmetic over the time that adding two float32 columns [B,T] takes: what the recipe "
    "costs where memory is the limit, whatever the machine",
    "gpu_share": "the same passes at 3.35 TB/s of memory against the update at 400 TFLOP/s (an H100, by its data "
    "sheet and 40 % of its bfloat16 limit); an estimate, launches of kernels left out",
}


def main() -> None:
    """Time every online recipe."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1024)
    parser.add_argument("--tokens", type=int, default=1024)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--only", nargs="+", default=None, metavar="RECIPE")
    options = parser.parse_args()
    import torch

    torch.set_num_threads(1)
    columns, facts = batch_of(options.rows, options.tokens)
    forms = {name: form for name, form in online().items() if options.only is None or name in options.only}
    found: dict[str, Any] = {"meaning": MEANING, "machine": machine(), "wanted": WANTED}
    tokens = int(columns["mask"].sum())
    found["sizes"] = {"rows": options.rows, "tokens": options.tokens, "chosen_tokens": tokens, "parameters": PARAMETERS}
    works = {name: lambda form=form: arithmetic_of(form, columns, facts) for name, form in forms.items()}
    works |= {"(mm)": mm_seconds, "(pass)": lambda: pass_seconds(options.rows, options.tokens)}
    seconds = in_turn(works, options.repeats)
    update = 6 * PARAMETERS * tokens / (mm_operations() / min(seconds.pop("(mm)")))
    one_pass = statistics.median(seconds.pop("(pass)"))
    gpu = (3 * 4 * options.rows * options.tokens / 3.35e12) / (6 * PARAMETERS * tokens / 400e12)
    found["recipes"] = {
        name: {
            "share": spread([t / update for t in times]),
            "passes": spread([t / one_pass for t in times]),
            "gpu_share": float(f"{statistics.median(times) / one_pass * gpu:.3g}"),
        }
        for name, times in seconds.items()
    }
    rows = sorted(found["recipes"].items(), key=lambda item: -item[1]["share"]["median"])
    found["worst"] = rows[0][0]
    table(
        ("recipe", "share of update %", "passes over [B,T]", "GPU estimate %"),
        [(n, 100 * f["share"]["median"], f["passes"]["median"], 100 * f["gpu_share"]) for n, f in rows],
    )
    worst = rows[0][1]["share"]["median"]
    print(f"worst: {found['worst']}, {100 * worst:.3g} % of an update; at most {100 * WANTED:g} % wanted")
    if options.only is None:
        write("arithmetic", found)


def online() -> Mapping[str, Any]:
    """Every online form of every recipe by name."""
    import truegain.recipes  # noqa: F401
    from truegain.core.forms import Train
    from truegain.core.system import SYSTEMS, build

    return {name: form for name in sorted(SYSTEMS) for form in build(name) if isinstance(form, Train)}


def batch_of(rows: int, tokens: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """Random columns as the contract tests draw them, in float32, with steps of `STEP_TOKENS` tokens."""
    sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "contract"))
    import torch
    from random_columns import facts, random_batch

    drawn = dict(random_batch(0, rows, tokens, dtype=torch.float32, groups=(GROUP, GROUP)))
    wide, step = drawn["step"], torch.where(drawn["step"] >= 0, drawn["step"] * 2 // STEP_TOKENS, -1)
    count = int(step.max()) + 1
    for name, column in drawn.items():
        if column.dim() == 2 and column.shape[1] == int(wide.max()) + 1 and column.is_floating_point():
            past = torch.arange(count) > step.max(dim=1, keepdim=True).values
            drawn[name] = column[:, :count].nan_to_num().masked_fill(past, float("nan"))
    return {**drawn, "step": step}, facts(tokens)


def arithmetic_of(form: Any, columns: Mapping[str, Any], facts: Mapping[str, Any]) -> float:
    """Seconds from the rollouts' columns to the gradient of the log-probs of every optimiser step."""
    import torch

    from truegain.core import arithmetic
    from truegain.core.batch import Batch

    given = {"keep", "reward", "reward_parts", "advantage", "target", "logp", "entropy", "value"}
    batch = Batch(**{name: value for name, value in columns.items() if name not in given})
    began = time.perf_counter()
    batch, _ = arithmetic.reward_stage(form, batch, facts)
    batch, index, _ = arithmetic.select_stage(form, batch, facts)
    advantages, _ = arithmetic.credit_stage(form, batch, facts)
    steps, _ = arithmetic.plan_stage(form, batch, advantages, facts)
    spent = time.perf_counter() - began
    for step in steps:
        kept = index[step.rows]
        for first in range(0, len(kept), MICRO_ROWS):
            chosen = torch.arange(first, min(first + MICRO_ROWS, len(kept)))
            current = {
                name: columns[name][kept[chosen]].clone().requires_grad_() for name in ("logp", "entropy", "value")
            }
            began = time.perf_counter()
            for role in {term.role for term in form.terms}:
                loss, _ = arithmetic.loss_of(form, step, chosen, current, facts, role)
                if loss.requires_grad:
                    loss.backward()
            spent += time.perf_counter() - began
    return spent


_MATRICES: list[Any] = []


def mm_operations() -> int:
    """Operations of one timed product."""
    return 2 * 1024 * 896 * 4864


def mm_seconds() -> float:
    """Seconds of one product of the shape of an MLP of half a billion parameters, the best of eight."""
    import torch

    if not _MATRICES:
        _MATRICES.extend((torch.randn(1024, 896), torch.randn(896, 4864)))
    took: list[float] = []
    for _ in range(8):
        began = time.perf_counter()
        torch.mm(*_MATRICES)
        took.append(time.perf_counter() - began)
    return min(took)


def pass_seconds(rows: int, tokens: int) -> float:
    """Seconds of adding two columns."""
    import torch

    a, b, out = torch.ones(rows, tokens), torch.ones(rows, tokens), torch.empty(rows, tokens)
    took: list[float] = []
    for _ in range(8):
        began = time.perf_counter()
        torch.add(a, b, out=out)
        took.append(time.perf_counter() - began)
    return statistics.median(took)


if __name__ == "__main__":
    main()
