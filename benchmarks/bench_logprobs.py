"""Log-probs and entropy of 1024 tokens at a vocabulary of 152k, forward and backward: memory and time.

    python benchmarks/bench_logprobs.py [--repeats 5] [--threads 1 2] [--trl]

The head of a Qwen2 of half a billion parameters (896 by 151,936, float32), random hidden states. Ours makes logits for
a chunk of rows at a time (`policy.logprobs.logp_from_hidden`). *naive* writes all logits out: log_softmax, gather, and
the entropy from them, through autograd. *trl* is the fused head of TRL's GRPOTrainer. The loss weighs both outputs by
random numbers and has gradients to the hidden states and the weight. Memory is of a fresh process for each way. Results
go to benchmarks/results/logprobs.json.
"""

from __future__ import annotations

import argparse
import sys
from contextlib import ExitStack
from typing import Any

from side_by_side import MEGABYTE, Side, Worker, asked, best, machine, memory, ratios, spread, table, write

TOKENS, WIDTH, VOCABULARY = 1024, 896, 151_936
WANTED = {"extra_mb": 700, "time": 1.1}
WAYS = ("ours", "naive", "trl")
MEANING = {
    "extra_mb": "peak resident memory of a fresh process during one forward and backward, over what it held before, "
    "less the gradient of the weight (519 MB), which every way has to return",
    "time": "our seconds over the other's, repeat by repeat, each way at its better number of threads",
    "largest_difference": "of log-probs and entropies from the naive way's, in nats, and of gradients from the naive "
    "way's, relative to the largest gradient",
}


def main() -> None:
    """Memory first, each way in its own process; then all in turn for time."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--trl", action="store_true", help="time TRL's fused head, too; its memory is always measured")
    options = parser.parse_args()
    found: dict[str, Any] = {"meaning": MEANING, "machine": machine("trl"), "wanted": WANTED}
    found["sizes"] = {"tokens": TOKENS, "width": WIDTH, "vocabulary": VOCABULARY, "dtype": "float32"}
    gradient = 4 * WIDTH * VOCABULARY / MEGABYTE
    found["extra_mb"], found["largest_difference"] = {}, {}
    for way in WAYS:
        with Side(__file__, 1, way=way) as side:
            after = side.tell("once")
            found["extra_mb"][way] = round(after["peak_mb"] - side.started["memory"]["now_mb"] - gradient, 1)
            if way != "naive":
                found["largest_difference"][way] = side.tell("compare")["gap"]
    timed = WAYS if options.trl else WAYS[:2]
    seconds: dict[tuple[str, int], list[float]] = {(way, n): [] for n in options.threads for way in timed}
    with ExitStack() as stack:
        sides = {key: stack.enter_context(Side(__file__, key[1], way=key[0])) for key in seconds}
        for side in sides.values():
            side.tell("once")
        for _ in range(options.repeats):
            for key, times in seconds.items():
                times.append(sides[key].tell("once")["seconds"])
    chosen = {way: best({key: times for key, times in seconds.items() if key[0] == way}) for way in timed}
    found["threads"] = {way: key[1] for way, key in chosen.items()}
    found["seconds"] = {f"{way} {n}": spread(times) for (way, n), times in seconds.items()}
    found["time"] = {way: ratios(seconds[chosen["ours"]], seconds[chosen[way]]) for way in timed[1:]}
    write("logprobs", found)
    table(("", "extra MB"), list(found["extra_mb"].items()))
    table(
        ("our time over", "median", "low", "high"),
        [(w, t["median"], t["low"], t["high"]) for w, t in found["time"].items()],
    )
    print(f"  largest differences: {found['largest_difference']}")


def serve(way: str) -> None:
    """Be one way until the parent has gone."""
    import torch

    draw = torch.Generator().manual_seed(0)
    hidden = torch.randn(TOKENS, WIDTH, generator=draw).requires_grad_()
    weight = torch.randn(VOCABULARY, WIDTH, generator=draw).mul_(0.05).requires_grad_()
    targets = torch.randint(VOCABULARY, (TOKENS,), generator=draw)
    on = torch.randn(2, TOKENS, generator=draw)
    worker = Worker()

    def once(how: str = way) -> dict[str, Any]:
        import time

        hidden.grad = weight.grad = None
        began = time.perf_counter()
        logp, entropy = OF[how](hidden, weight, targets)
        ((logp * on[0]).sum() + (entropy * on[1]).sum()).backward()
        seconds = time.perf_counter() - began
        worker_result.update(logp=logp.detach(), entropy=entropy.detach())
        return {"seconds": seconds, **memory()}

    def compare() -> dict[str, Any]:
        found = []
        for how in (way, "naive"):
            once(how)
            assert hidden.grad is not None and weight.grad is not None
            found.append((worker_result["logp"], worker_result["entropy"], hidden.grad.clone(), weight.grad.clone()))
        names = ("logp", "entropy", "gradient of hidden", "gradient of weight")
        gaps = {}
        for name, one, other in zip(names, *found, strict=True):
            scale = float(other.abs().max()) if name.startswith("gradient") else 1.0
            gaps[name] = float(f"{float((one - other).abs().max()) / scale:.2g}")
        return {"gap": gaps}

    worker_result: dict[str, Any] = {}
    worker.serve({"once": once, "compare": compare})


def ours(hidden: Any, weight: Any, targets: Any) -> tuple[Any, Any]:
    from truegain.policy.logprobs import logp_from_hidden

    return logp_from_hidden(hidden, weight, None, targets, 1.0, True)


def naive(hidden: Any, weight: Any, targets: Any) -> tuple[Any, Any]:
    scores = (hidden @ weight.T).log_softmax(-1)
    return scores.gather(-1, targets[:, None])[:, 0], -(scores.exp() * scores).sum(-1)


def trl(hidden: Any, weight: Any, targets: Any) -> tuple[Any, Any]:
    """TRL's own fused function as GRPOTrainer calls it, entropy included; its chunks are of tokens times vocabulary."""
    from trl.kernels import ChunkedLogProbFunction
    from trl.trainer.utils import _CHUNKED_LOGPROB_CHUNK_SIZE

    wanted = ("log_probs", "entropy")
    found = ChunkedLogProbFunction.apply(
        hidden, weight, None, targets, 1.0, _CHUNKED_LOGPROB_CHUNK_SIZE, None, 1.0, wanted
    )
    return found[0], found[1]


OF = {"ours": ours, "naive": naive, "trl": trl}


if __name__ == "__main__":
    arguments = asked(sys.argv)
    if arguments is None:
        main()
    else:
        serve(**arguments)
