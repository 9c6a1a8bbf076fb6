"""Our online loop against TRL's GRPOTrainer (transformers generation): steps per second, memory, share of the limit.

    python benchmarks/bench_trl.py [--works 3.3M tiny] [--dtypes float32 bfloat16] [--repeats 5] [--accuracy]

The same random model, prompts, group, completion tokens, optimiser and trivial reward on both sides; the end mark has
an id that is never drawn, so all completions have the same length and nothing is padded. Each side runs in fresh
processes with 1 and with 2 threads, told in turn to take steps; its better setting counts. What TRL has off by default
or slower on this work is set in its favour: no gradient checkpointing, one forward pass for the whole batch, old
log-probs skipped. ``--accuracy`` instead measures the time to a fixed held-out accuracy (see accuracy_race.py).
Results go to benchmarks/results/trl.json.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import warnings
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from side_by_side import RESULTS, Side, Worker, asked, best, machine, ratios, spread, table, write
from workload import (
    WORKS,
    Work,
    forward_operations,
    model_of,
    policy_of,
    prompt_of,
    weights_of,
)

STEPS = {"3.3M": 1, "tiny": 3}  # per timed piece
# A setting whose first step takes so many times as long as its side's fastest is not repeated. As the first step
# allocates, the second is taken in its place where that does not take long.
HOPELESS, QUICK = 1.3, 20.0
# TRL has two kinds of bf16: autocast over float32 weights (its default), and weights in bfloat16
TRL_KINDS = {"float32": ("float32",), "bfloat16": ("autocast", "bfloat16")}
OURS_KINDS = {"float32": ("float32",), "bfloat16": ("bfloat16",)}
AIMS = {("3.3M", "float32"): 1.3, ("3.3M", "bfloat16"): 1.6, ("tiny", "float32"): 3.0}
MEANING = {
    "speedup": "TRL's seconds per step over ours, repeat by repeat, each side at its better number of threads; both "
    "sides sample, score, and take one optimiser step on the same number of tokens",
    "seconds_per_step": "only for the ratio: they belong to this machine and its load",
    "peak_mb": "largest resident memory of the side's fresh process, libraries included; over_start_mb is what the "
    "work itself added to what was resident before the first step",
    "share_of_gemm_limit": "floating-point operations per second reached, over what torch.mm reaches on the same "
    "matrix shapes in the same process (median of the shapes, weighed by their operations); attention's operations "
    "are counted in what is reached",
    "bfloat16": "ours: bfloat16 weights, float32 masters in the optimiser. TRL: the faster of bf16=True over float32 "
    "weights (autocast) and bf16=True over bfloat16 weights. On a CPU without bfloat16 instructions (see processor) "
    "ours converts the weights and computes in float32, and TRL's products take torch's slow path",
}


def main() -> None:
    """Time every work and dtype, side by side."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--works", nargs="+", default=list(WORKS), choices=list(WORKS))
    parser.add_argument("--dtypes", nargs="+", default=["float32", "bfloat16"], choices=list(OURS_KINDS))
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--accuracy", action="store_true", help="time to a fixed held-out accuracy; takes long")
    options, more = parser.parse_known_args()
    if options.accuracy:
        sys.exit(subprocess.call([sys.executable, str(Path(__file__).with_name("accuracy_race.py")), *more]))
    found: dict[str, Any] = {"meaning": MEANING, "works": {}}
    for name in options.works:
        for dtype in options.dtypes:
            if (name, dtype) not in AIMS:
                continue
            key = f"{name} {dtype}"
            found["works"][key] = measure(name, dtype, options.threads, options.repeats)
            show(key, found["works"][key])
            write("trl", merged(found))


def merged(found: dict[str, Any]) -> dict[str, Any]:
    """Keep what another call of this benchmark found."""
    import json

    file = RESULTS / "trl.json"
    before = json.loads(file.read_text()) if file.exists() else {}
    return {**before, **found, "works": {**before.get("works", {}), **found["works"]}}


def measure(name: str, dtype: str, threads: list[int], repeats: int) -> dict[str, Any]:
    """One work in one dtype: all sides and thread counts in turn."""
    work, about = WORKS[name], machine("trl", "accelerate")
    kinds = [("ours", kind) for kind in OURS_KINDS[dtype]] + [("trl", kind) for kind in TRL_KINDS[dtype]]
    seconds: dict[tuple[str, str, int], list[float]] = {}
    with ExitStack() as stack:
        sides: dict[tuple[str, str, int], Side] = {}
        for count in threads:
            for side, kind in kinds:
                what = {"side": side, "kind": kind, "work": name}
                sides[side, kind, count] = stack.enter_context(Side(__file__, count, **what))
        first = {key: side.tell("step")["seconds"] for key, side in sides.items()}
        if max(t for t in first.values()) < QUICK:
            first = {key: side.tell("step")["seconds"] for key, side in sides.items()}
        for key in sides:
            if first[key] < HOPELESS * min(t for other, t in first.items() if other[0] == key[0]):
                seconds[key] = []
        for _ in range(repeats):
            for key, times in seconds.items():
                times.append(sides[key].tell("step")["seconds"] / STEPS[name])
        chosen = {who: best({k: v for k, v in seconds.items() if k[0] == who}) for who in ("ours", "trl")}
        peak = {key: (sides[key].started["memory"], sides[key].tell("memory")) for key in chosen.values()}
        phases = [sides[chosen["ours"]].tell("phases") for _ in range(repeats)]
    ours, trl = chosen["ours"], chosen["trl"]
    return {
        "machine": about,
        "sizes": {**work.__dict__, "dtype": dtype},
        "speedup": {**ratios(seconds[trl], seconds[ours]), "wanted": AIMS.get((name, dtype))},
        "threads": {"ours": ours[2], "trl": trl[2], "trl_kind": trl[1]},
        "seconds_per_step": {" ".join(map(str, key)): spread(values) for key, values in seconds.items()},
        "memory": {who: of_memory(*peak[chosen[who]]) for who in chosen},
        "share_of_gemm_limit": {p: shares([phase[p] for phase in phases]) for p in ("decode", "update")},
    }


def of_memory(before: dict[str, float], after: dict[str, float]) -> dict[str, float]:
    return {"peak_mb": round(after["peak_mb"], 1), "over_start_mb": round(after["peak_mb"] - before["now_mb"], 1)}


def shares(phases: list[dict[str, float]]) -> dict[str, Any]:
    share = spread([p["rate"] / p["limit"] for p in phases])
    rates = {key: round(statistics.median(p[key] for p in phases), 1) for key in ("rate", "limit")}
    return {**share, "gflops_reached": rates["rate"], "gflops_of_mm": rates["limit"]}


def show(key: str, found: dict[str, Any]) -> None:
    """A small table."""
    print(f"{key}: TRL's time over ours")
    speed, memory, share = found["speedup"], found["memory"], found["share_of_gemm_limit"]
    table(
        ("", "median", "low", "high", "wanted"),
        [("speedup", speed["median"], speed["low"], speed["high"], speed["wanted"] or "-")]
        + [(f"share of mm in {p}", s["median"], s["low"], s["high"], "-") for p, s in share.items()]
        + [(f"peak MB, {who}", m["peak_mb"], "", "", "-") for who, m in memory.items()],
    )


# The two sides


def serve(side: str, kind: str, work: str) -> None:
    """Be one side until the parent has gone."""
    import torch
    from training_sides import serve_ours, serve_trl

    warnings.filterwarnings("ignore")
    worker, sizes = Worker(), WORKS[work]
    dtype = torch.bfloat16 if kind == "bfloat16" else torch.float32
    if side == "ours":
        policy = policy_of(sizes, dtype)
        serve_ours(worker, sizes, STEPS[work], policy, {"phases": lambda: phases(sizes, policy)})
    else:
        serve_trl(worker, sizes, STEPS[work], model_of(sizes, dtype), bf16=kind != "float32")


# How near the matrix limit


def phases(work: Work, policy: Any) -> dict[str, Any]:
    """Decode and update alone, in billions of operations per second, with torch.mm's on the same shapes."""
    import time

    import torch

    from truegain.core.types import Request, Sampling
    from truegain.policy.logprobs import token_logp
    from truegain.rollout.engines import engine_for

    prompts = [policy.encode_prompt(prompt_of(work, i)) for i in range(work.prompts) for _ in range(work.samples)]
    requests = [Request(prompt, key=i) for i, prompt in enumerate(prompts)]
    engine = engine_for(policy)
    began = time.perf_counter()
    drawn = engine.generate(requests, Sampling(work.tokens))
    decode = time.perf_counter() - began
    tokens = torch.tensor([sample.ids for sample in drawn])
    lengths = torch.full((len(prompts),), work.tokens)
    began = time.perf_counter()
    logp, entropy = token_logp(policy, prompts, tokens, lengths, entropy=True)
    assert entropy is not None
    (logp.sum() + entropy.sum()).backward()
    update = time.perf_counter() - began
    policy.model.zero_grad()
    rows = len(prompts)
    packed = work.prompts * work.start + rows * work.tokens
    return {
        "decode": {
            "rate": decode_operations(work) / decode / 1e9,
            "limit": mm_rate(work, rows, policy.dtype, work.tokens),
        },
        "update": {
            "rate": 3 * forward_operations(work) / update / 1e9,
            "limit": mm_rate(work, packed, policy.dtype, 1),
        },
    }


def decode_operations(work: Work) -> float:
    """Each prompt once, then every drawn token but the last, which is never read."""
    rows, read = work.prompts * work.samples, work.tokens - 1
    weights = weights_of(work)
    body = weights - work.vocabulary * work.width
    seen = sum(work.start + t + 1 for t in range(read))
    prompts = work.prompts * (2 * body * work.start + 4 * work.layers * work.width * work.start**2 / 2)
    heads = 2 * (work.prompts - rows) * work.vocabulary * work.width  # the first logits are of prompts
    return prompts + heads + rows * (2 * weights * (read + 1) - 2 * body + 4 * work.layers * work.width * seen)


def mm_rate(work: Work, rows: int, dtype: Any, repeat: int) -> float:
    """Billions of operations per second of torch.mm over the model's own shapes with so many rows."""
    import time

    import torch

    shapes = [(work.width, work.width)] * 4 + [(work.width, work.inner)] * 2 + [(work.inner, work.width)]
    matrices = [torch.randn(shape, dtype=dtype) for shape in shapes * work.layers + [(work.width, work.vocabulary)]]
    inputs = {n: torch.randn(rows, n, dtype=dtype) for n in (work.width, work.inner)}
    took: list[float] = []
    for _ in range(3):
        began = time.perf_counter()
        for _ in range(repeat):
            for matrix in matrices:
                torch.mm(inputs[matrix.shape[0]], matrix)
        took.append(time.perf_counter() - began)
    return 2 * rows * repeat * sum(m.numel() for m in matrices) / statistics.median(took) / 1e9


if __name__ == "__main__":
    arguments = asked(sys.argv)
    if arguments is None:
        main()
    else:
        serve(**arguments)
