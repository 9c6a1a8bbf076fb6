"""On a CUDA card: decode and update of a Qwen2-shaped half-billion-parameter model in bfloat16, random weights.

    python benchmarks/bench_gpu.py [--repeats 5]

Against transformers' `generate` and TRL's GRPOTrainer on the same work, and against the card's own limits, measured in
the same run: memory bandwidth by copying, matrices by torch.mm. Without CUDA it says so and writes nothing. Results go
to benchmarks/results/gpu.json.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from typing import Any
from unittest import mock

import torch
from side_by_side import Side, Worker, asked, in_turn, machine, ratios, spread, table, write
from workload import Work, prompt_of, tokenizer_of

from truegain.core.types import Request, Sampling
from truegain.policy.logprobs import token_logp
from truegain.policy.policy import Policy
from truegain.rollout import cached
from truegain.rollout.engines import engine_for

# Qwen2-0.5B's sizes; 16 prompts of 128 tokens, 8 completions of 128 tokens each
WORK = Work(layers=24, width=896, inner=4864, heads=14, vocabulary=151_936, start=128, tokens=128, lr=1e-6)
KV_HEADS = 2
MEANING = {
    "decode.speedup": "seconds of transformers' generate over ours: the same prompts, the same number of drawn tokens",
    "decode.graphs": "seconds of ours without CUDA graphs over ours with them",
    "decode.share_of_bandwidth": "bytes that have to be read per second (weights once per token position, keys and "
    "values of every row, a shared prompt's once) over the bytes per second of a copy on the same card",
    "update.share_of_mm": "operations per second of forward and backward over those of torch.mm at 8192 x 4096 x 4096",
    "step.speedup": "TRL's seconds per optimiser step over ours; both sample, score and update",
}


def main() -> None:
    """Measure, or say that there is no card."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    if not torch.cuda.is_available():
        print("  no CUDA device here: nothing was measured, and benchmarks/results/gpu.json was not written")
        return
    warnings.filterwarnings("ignore")
    found: dict[str, Any] = {"meaning": MEANING, "machine": machine("trl"), "card": torch.cuda.get_device_name()}
    found["sizes"] = {**WORK.__dict__, "kv_heads": KV_HEADS, "dtype": "bfloat16"}
    bandwidth, matrices = copy_rate(), mm_rate()
    found["limits"] = {"copy_gb_per_s": bandwidth / 1e9, "mm_tflops": matrices / 1e12}
    policy = Policy(model_of(), tokenizer_of(WORK), "random")
    found["decode"] = decode(policy, options.repeats, bandwidth)
    found["update"] = update(policy, options.repeats, matrices)
    del policy
    torch.cuda.empty_cache()
    found["step"] = step(options.repeats)
    write("gpu", found)
    rows = [
        (f"{part}, {name}", f["median"], f["low"], f["high"])
        for part in ("decode", "update", "step")
        for name, f in found[part].items()
        if isinstance(f, dict)
    ]
    table(("", "median", "low", "high"), rows)


def model_of() -> Any:
    from transformers import Qwen2Config, Qwen2ForCausalLM

    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=WORK.vocabulary,
        hidden_size=WORK.width,
        intermediate_size=WORK.inner,
        num_hidden_layers=WORK.layers,
        num_attention_heads=WORK.heads,
        num_key_value_heads=KV_HEADS,
        max_position_embeddings=4096,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=None,
    )
    return Qwen2ForCausalLM(config).to("cuda", torch.bfloat16).eval()


def seconds_of(work: Callable[[], Any]) -> float:
    """Seconds until the card has done the work."""
    torch.cuda.synchronize()
    began = time.perf_counter()
    work()
    torch.cuda.synchronize()
    return time.perf_counter() - began


def copy_rate() -> float:
    """Bytes per second, read and written, of a copy of 2 GB."""
    source = torch.empty(2**31, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    return 2 * source.numel() / statistics.median(seconds_of(lambda: target.copy_(source)) for _ in range(10))


def mm_rate() -> float:
    """Operations per second of a large product in bfloat16."""
    a = torch.randn(8192, 4096, device="cuda", dtype=torch.bfloat16)
    b = torch.randn(4096, 4096, device="cuda", dtype=torch.bfloat16)
    return 2 * 8192 * 4096 * 4096 / statistics.median(seconds_of(lambda: torch.mm(a, b)) for _ in range(20))


def weights_of(model: Any) -> int:
    """Weights that multiply; the tied head counts once, as the embedding is only looked up."""
    return sum(p.numel() for p in model.parameters() if p.dim() == 2)


def decode(policy: Policy, repeats: int, bandwidth: float) -> dict[str, Any]:
    prompts = [policy.encode_prompt(prompt_of(WORK, i)) for i in range(WORK.prompts)]
    requests = [Request(p, key=i * WORK.samples + k) for i, p in enumerate(prompts) for k in range(WORK.samples)]
    ids = torch.tensor([request.trunk for request in requests], device="cuda")
    engine, model, tokens = engine_for(policy), policy.model, WORK.tokens
    plain: dict[str, Any] = {"do_sample": True, "top_k": 0, "max_new_tokens": tokens, "min_new_tokens": tokens}

    def generate() -> Any:
        with torch.inference_mode():
            return model.generate(ids, attention_mask=torch.ones_like(ids), pad_token_id=0, **plain)

    def ours(record: Callable[[Any], Any]) -> float:
        with mock.patch.object(cached, "record", record):
            return seconds_of(lambda: engine.generate(requests, Sampling(tokens)))

    works = {
        "ours": lambda: ours(cached.record),
        "no graphs": lambda: ours(lambda work: work),
        "transformers": lambda: seconds_of(generate),
    }
    seconds = in_turn(works, repeats)
    slot = 2 * WORK.layers * KV_HEADS * (WORK.width // WORK.heads) * 2
    own = sum(range(tokens)) * len(requests) * slot
    read = 2 * weights_of(model) * tokens + own + tokens * WORK.prompts * WORK.start * slot
    return {
        "speedup": ratios(seconds["transformers"], seconds["ours"]),
        "graphs": ratios(seconds["no graphs"], seconds["ours"]),
        "share_of_bandwidth": spread([read / s / bandwidth for s in seconds["ours"]]),
        "seconds": spread(seconds["ours"]),
    }


def update(policy: Policy, repeats: int, matrices: float) -> dict[str, Any]:
    prompts = [policy.encode_prompt(prompt_of(WORK, i)) for i in range(WORK.prompts) for _ in range(WORK.samples)]
    rows = len(prompts)
    tokens = torch.randint(WORK.vocabulary, (rows, WORK.tokens), device="cuda")
    lengths = torch.full((rows,), WORK.tokens, device="cuda")

    def once() -> None:
        logp, entropy = token_logp(policy, prompts, tokens, lengths, entropy=True)
        assert entropy is not None
        (logp.sum() + entropy.sum()).backward()
        policy.model.zero_grad()

    seconds = in_turn({"ours": lambda: seconds_of(once)}, repeats)["ours"]
    head = WORK.vocabulary * WORK.width
    body = weights_of(policy.model) - head
    read = WORK.prompts * WORK.start + rows * WORK.tokens
    seen = WORK.prompts * WORK.start**2 / 2 + rows * sum(WORK.start + t + 1 for t in range(WORK.tokens))
    forward = 2 * body * read + 2 * head * rows * WORK.tokens + 4 * WORK.layers * WORK.width * seen
    return {"share_of_mm": spread([3 * forward / s / matrices for s in seconds]), "seconds": spread(seconds)}


def step(repeats: int) -> dict[str, Any]:
    """Whole optimiser steps of both sides, in turn, each in a process of its own on the same card."""
    with Side(__file__, 1, side="ours") as ours, Side(__file__, 1, side="trl") as trl:
        works = {"ours": lambda: ours.tell("step")["seconds"], "trl": lambda: trl.tell("step")["seconds"]}
        seconds = in_turn(works, repeats, warm=2)
    return {"speedup": ratios(seconds["trl"], seconds["ours"]), "seconds": spread(seconds["ours"])}


def serve(side: str) -> None:
    """Be one side of `step` until the parent has gone. The end of a step waits for the card, as it logs the loss."""
    from training_sides import serve_ours, serve_trl

    warnings.filterwarnings("ignore")
    if side == "ours":
        serve_ours(Worker(), WORK, 1, Policy(model_of(), tokenizer_of(WORK), "random"), {})
    else:
        serve_trl(Worker(), WORK, 1, model_of(), bf16=True)


if __name__ == "__main__":
    arguments = asked(sys.argv)
    if arguments is None:
        main()
    else:
        serve(**arguments)
