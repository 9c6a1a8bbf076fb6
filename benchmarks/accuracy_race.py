"""Time to a fixed held-out accuracy, our loop against TRL's GRPOTrainer: same model, task and hyper-parameters.

    python benchmarks/bench_trl.py --accuracy [--seeds 5] [--threads 1]

The embedded model `tiny` on `sort` at its default level, direct style, with the settings of the recipe grpo. Both
sides take the same problems in the same order, stop at the same marks and are judged by the same checker. Every
``EVERY`` optimiser steps a side is looked at: sampled accuracy at temperature 1 on the same held-out problems, off the
clock. The time is that of the steps up to the first look at or above `WANTED`. In a first trial (90 %, a look every 5
steps) both sides were there at their first look, so both numbers were changed, once, before the runs reported here.
The two sides of a seed take their steps in turn. Results go to benchmarks/results/trl.json under ``accuracy``.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import warnings
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from side_by_side import RESULTS, Side, Worker, asked, machine, ratios, spread, table, write

WANTED = 0.98
EVERY, LONGEST = 2, 200
PROBLEMS, SAMPLES = 250, 2
TASK = "sort"


def main() -> None:
    """Race both sides, seed by seed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    found: dict[str, Any] = {"machine": machine("trl", "accelerate"), "wanted": WANTED, "threads": options.threads}
    found["meaning"] = " ".join((__doc__ or "").split("\n\n")[2].split())
    races = []
    for seed in range(options.seeds):
        races.append(race(seed, options.threads))
        print(
            f"seed {seed}: " + ", ".join(f"{who} {race_['seconds']:.0f} s" for who, race_ in races[-1].items()),
            flush=True,
        )
        found["races"] = races
        if all(side["reached"] for pair in races for side in pair.values()):
            seconds = {who: [pair[who]["seconds"] for pair in races] for who in races[0]}
            found["speedup"] = ratios(seconds["trl"], seconds["ours"])
            found["steps"] = {who: spread([pair[who]["steps"] for pair in races]) for who in races[0]}
        file = RESULTS / "trl.json"
        before = json.loads(file.read_text()) if file.exists() else {}
        write("trl", {**before, "accuracy": found})
    rows = [(who, statistics.median(pair[who]["seconds"] for pair in races)) for who in races[0]]
    table(("", f"median s to {WANTED:.0%}"), rows)


def race(seed: int, threads: int) -> dict[str, dict[str, Any]]:
    """One seed: both sides in turn until each has reached the accuracy."""
    with Side(__file__, threads, side="ours", seed=seed) as ours, Side(__file__, threads, side="trl", seed=seed) as trl:
        state: dict[str, dict[str, Any]] = {}
        for who in ("ours", "trl"):
            state[who] = {"seconds": 0.0, "steps": 0, "reached": False, "curve": []}
        while True:
            left = [w for w, s in state.items() if not s["reached"] and s["steps"] < LONGEST]
            if not left:
                return state
            for who in left:
                told, kept = {"ours": ours, "trl": trl}[who].tell("step"), state[who]
                kept["seconds"] = round(kept["seconds"] + told["seconds"], 3)
                kept["steps"] += EVERY
                kept["curve"].append([kept["steps"], kept["seconds"], told["accuracy"]])
                kept["reached"] = told["accuracy"] >= WANTED


# The two sides


def serve(side: str, seed: int) -> None:
    """Be one side until the parent has gone."""
    warnings.filterwarnings("ignore")
    (serve_ours if side == "ours" else serve_trl)(Worker(), seed)


def accuracy(policy: Any, task: Any) -> float:
    """Sampled at temperature 1, the same problems and the same draws at every look, on our engine for both sides."""
    from truegain.core.types import Sampling
    from truegain.rollout.collect import collect, score_rollouts
    from truegain.rollout.engines import engine_for
    from truegain.train.truth import fixed_problems

    was = policy.model.training
    policy.model.eval()
    asked_ = fixed_problems(task, "dev", PROBLEMS)
    how = Sampling(task.max_tokens, 1.0)
    drawn = collect(
        policy, engine_for(policy), task, asked_, samples=SAMPLES, sampling=how, seed=0, stage="race", step=0
    )
    policy.model.train(was)
    return statistics.fmean(float(r.facts["correct"]) for r in score_rollouts(task, drawn))


def prepare() -> tuple[Any, Any, Any]:
    """The policy, the task and the recipe's form, as `truegain train grpo --task sort` puts them together."""
    from truegain.policy.policy import Policy
    from truegain.recipes import grpo
    from truegain.tasks import make_one
    from truegain.train.run import fitted

    task = make_one(TASK)
    form = fitted(grpo(), task)
    quiet = {"steps": 1_000_000, "eval_every": 0, "save_every": 0}
    return Policy.load("tiny"), task, replace(form, loop=form.loop.model_copy(update=quiet))


def serve_ours(worker: Worker, seed: int) -> None:
    """`train.online.train` as a user runs it."""
    import time

    from truegain.train.folder import RunFolder
    from truegain.train.online import Setup, train

    policy, task, form = prepare()
    with tempfile.TemporaryDirectory() as place, RunFolder(Path(place) / "run") as folder:
        lines = train(Setup(form, policy, task, folder, seed), lambda: None)

        def step() -> dict[str, Any]:
            began = time.perf_counter()
            for _ in range(EVERY):
                next(lines)
            return {"seconds": time.perf_counter() - began, "accuracy": accuracy(policy, task)}

        worker.serve({"step": step})


def serve_trl(worker: Worker, seed: int) -> None:
    """`GRPOTrainer.train` on the same model and problems, its end marks set to where our task stops."""
    import time

    from datasets import Dataset
    from training_sides import trl_settings
    from transformers import PrinterCallback, TrainerCallback
    from trl import GRPOConfig, GRPOTrainer
    from workload import Work

    from truegain.train.online import problems

    policy, task, form = prepare()
    loop = form.loop
    work = Work(prompts=loop.prompts, samples=loop.samples, tokens=loop.max_tokens, lr=loop.lr)
    train = problems(task, "train", 0, LONGEST * loop.prompts, seed)
    end = policy.encode(task.stop[0])
    assert len(end) == 1 and len(task.stop) == 1
    policy.model.generation_config.eos_token_id = [*policy.eos_ids, *end]

    def reward(completion_ids: list[list[int]], place: list[int], **_: Any) -> list[float]:
        texts = [policy.decode(ids) for ids in completion_ids]
        return [task.score(train[i], SimpleNamespace(text=t))["correct"] for i, t in zip(place, texts, strict=True)]

    class Turns(TrainerCallback):
        """Every few steps stops the clock, looks, and waits for its turn."""

        began = 0.0

        def on_step_begin(self, args: Any, state: Any, *_: Any, **__: Any) -> None:
            if state.global_step % EVERY == 0:
                if state.global_step:
                    seconds = time.perf_counter() - self.began
                    worker.say(seconds=seconds, accuracy=accuracy(policy, task))
                worker.next()
                self.began = time.perf_counter()

    with tempfile.TemporaryDirectory() as place:
        settings = {**trl_settings(work, place, bf16=False), "shuffle_dataset": False, "seed": seed}
        trainer = GRPOTrainer(
            model=policy.model,
            reward_funcs=reward,
            args=GRPOConfig(**settings),
            train_dataset=Dataset.from_list([{"prompt": p.prompt, "place": i} for i, p in enumerate(train)]),
            processing_class=policy.tokenizer,
            callbacks=[Turns()],
        )
        trainer.remove_callback(PrinterCallback)
        assert tuple(trainer._tokenize_prompts([train[0].prompt])[0][0]) == policy.encode_prompt(train[0].prompt)
        worker.ready()
        trainer.train()


if __name__ == "__main__":
    arguments = asked(sys.argv)
    if arguments is None:
        main()
    else:
        serve(**arguments)
