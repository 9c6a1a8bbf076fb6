"""Forced answers at many cut points of one completion: one forward under a tree mask against reading the prefix again.

    python benchmarks/bench_forks.py [--repeats 7] [--threads 1 2]

Five answers of 8 tokens are scored at each of 16 cuts of a 256-token completion (`engine.score`). Against it, on the
same decoder: (1) every answer read again with all that precedes it, the five of a cut in one batch without padding;
(2) one prefill per cut, whose keys and values its five answers share; and both of these as plain transformers code,
the second with its cache. Memory: the largest resident size of a fresh process, over what it held before, as the
number of cuts grows. Results go to benchmarks/results/forks.json.
"""

from __future__ import annotations

import argparse
import sys
from contextlib import ExitStack
from typing import Any

from side_by_side import Side, Worker, asked, best, machine, memory, ratios, spread, table, write

START, LENGTH, ANSWERS, ANSWER = 32, 256, 5, 8
CUTS = 16
MANY = (16, 64, 256)
WANTED = {"read again": 7.0, "prefill per cut": 2.5}
WAYS = ("tree", "read again", "prefill per cut", "read again, transformers", "prefill per cut, transformers")
MEANING = {
    "speedup": "seconds of the other way over ours, repeat by repeat, each way at its better number of threads",
    "largest_difference": "of any log-prob from the one that reading everything again in transformers gives, in nats",
    "over_start_mb": "peak resident memory of a fresh process that scores so many cuts, over what it held before",
}


def main() -> None:
    """Time all ways in turn, compare their numbers, then measure memory."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    options = parser.parse_args()
    found: dict[str, Any] = {"meaning": MEANING, "machine": machine()}
    found["sizes"] = {"prompt": START, "completion": LENGTH, "cuts": CUTS, "answers": ANSWERS, "answer": ANSWER}
    found["sizes"]["model"] = "3.3M parameters, float32"
    seconds: dict[tuple[str, int], list[float]] = {(way, n): [] for n in options.threads for way in WAYS}
    with ExitStack() as stack:
        sides = {n: stack.enter_context(Side(__file__, n, cuts=CUTS)) for n in options.threads}
        for way, n in seconds:
            sides[n].tell(way)
        for _ in range(options.repeats):
            for (way, n), times in seconds.items():
                times.append(sides[n].tell(way)["seconds"])
        found["largest_difference"] = {way: sides[options.threads[0]].tell(f"{way}?")["gap"] for way in WAYS[:-2]}
    chosen = {way: best({key: times for key, times in seconds.items() if key[0] == way}) for way in WAYS}
    found["seconds"] = {f"{way} {n}": spread(times) for (way, n), times in seconds.items()}
    found["threads"] = {way: key[1] for way, key in chosen.items()}
    found["speedup"] = {way: ratios(seconds[chosen[way]], seconds[chosen["tree"]]) for way in WAYS[1:]}
    for way, wanted in WANTED.items():
        found["speedup"][way]["wanted"] = wanted
    found["over_start_mb"] = {}
    for cuts in MANY:
        with Side(__file__, 1, cuts=cuts) as side:
            after = side.tell("tree")
            found["over_start_mb"][f"{cuts * ANSWERS} answers"] = round(
                after["peak_mb"] - side.started["memory"]["now_mb"], 1
            )
    write("forks", found)
    rows = [
        (f"against {way}", s["median"], s["low"], s["high"], s.get("wanted", "-"))
        for way, s in found["speedup"].items()
    ]
    table(("", "speedup", "low", "high", "wanted"), rows)
    print("  peak MB over the start: " + ", ".join(f"{n}: {mb:g}" for n, mb in found["over_start_mb"].items()))
    print(
        "  largest difference in nats: "
        + ", ".join(f"{way}: {gap:.1e}" for way, gap in found["largest_difference"].items())
    )


def serve(cuts: int) -> None:
    """Be one process that scores in every way until the parent has gone."""
    import torch
    from workload import WORKS, policy_of

    from truegain.core.types import Request
    from truegain.rollout.engines import engine_for

    policy = policy_of(WORKS["3.3M"])
    engine = engine_for(policy)
    draw = torch.Generator().manual_seed(1)
    trunk = tuple(torch.randint(1, 512, (START + LENGTH,), generator=draw).tolist())
    places = [START + (i + 1) * LENGTH // cuts for i in range(cuts)]
    answers = torch.randint(1, 512, (cuts, ANSWERS, ANSWER), generator=draw).tolist()
    requests = [Request(trunk, cut=c, suffix=tuple(a)) for c, five in zip(places, answers, strict=True) for a in five]
    ways: dict[str, Any] = {
        "tree": lambda: engine.score(requests),
        "read again": lambda: again(decoder_logits(policy), trunk, places, answers),
        "prefill per cut": lambda: per_cut(engine, trunk, places, answers),
        "read again, transformers": lambda: again(transformers_logits(policy), trunk, places, answers),
        "prefill per cut, transformers": lambda: per_cut_cached(policy.model, trunk, places, answers),
    }
    works: dict[str, Any] = {}
    for way, score in ways.items():
        works[way] = lambda score=score: timed(score)
        works[f"{way}?"] = lambda score=score: {"gap": gap(score(), ways["read again, transformers"]())}
    Worker().serve(works)


def timed(score: Any) -> dict[str, float]:
    import time

    began = time.perf_counter()
    score()
    return {"seconds": time.perf_counter() - began, **memory()}


def gap(one: Any, other: Any) -> float:
    import torch

    return float((torch.tensor(one).flatten() - torch.tensor(other).flatten()).abs().max())


def transformers_logits(policy: Any) -> Any:
    return lambda ids: policy.model(input_ids=ids, use_cache=False, logits_to_keep=ANSWER + 1).logits


def decoder_logits(policy: Any) -> Any:
    from truegain.policy.decoder import head, hidden_states

    return lambda ids: head(policy.model, hidden_states(policy.model, ids)[:, -ANSWER - 1 :])


def again(logits_of: Any, trunk: tuple[int, ...], places: list[int], answers: list[Any]) -> list[Any]:
    """Each answer with all that precedes it; those of a cut are equally long, so there is no padding."""
    import torch

    out = []
    with torch.inference_mode():
        for cut, five in zip(places, answers, strict=True):
            ids = torch.tensor([[*trunk[:cut], *answer] for answer in five])
            out.append(picked(logits_of(ids)[:, :-1], torch.tensor(five)))
    return torch.cat(out).tolist()


def per_cut(engine: Any, trunk: tuple[int, ...], places: list[int], answers: list[Any]) -> list[Any]:
    """One tree per cut: the prefix once, its five answers under a tree mask."""
    from truegain.core.types import Request

    out = []
    for cut, five in zip(places, answers, strict=True):
        out += engine.score([Request(trunk[:cut], suffix=tuple(answer)) for answer in five])
    return out


def per_cut_cached(model: Any, trunk: tuple[int, ...], places: list[int], answers: list[Any]) -> list[Any]:
    """One prefill per cut; its cache is repeated for the five answers."""
    import torch

    out = []
    with torch.inference_mode():
        for cut, five in zip(places, answers, strict=True):
            ids = torch.tensor(five)
            read = model(input_ids=torch.tensor([trunk[:cut]]), use_cache=True, logits_to_keep=1)
            read.past_key_values.batch_repeat_interleave(len(five))
            rest = model(input_ids=ids, past_key_values=read.past_key_values, use_cache=True).logits[:, :-1]
            out.append(picked(torch.cat((read.logits.expand(len(five), -1, -1), rest), 1), ids))
    return torch.cat(out).tolist()


def picked(logits: Any, ids: Any) -> Any:
    return logits.float().log_softmax(-1).gather(-1, ids[..., None])[..., 0]


if __name__ == "__main__":
    arguments = asked(sys.argv)
    if arguments is None:
        main()
    else:
        serve(**arguments)
