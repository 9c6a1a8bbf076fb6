"""One side of a training benchmark each: our online loop, and TRL's GRPOTrainer, taking steps when they are told to."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from side_by_side import Worker, memory
from workload import Words, Work, prompt_of, reward_of, tokenizer_of

ENDLESS = 1_000_000


def serve_ours(worker: Worker, work: Work, steps: int, policy: Any, more: Mapping[str, Any]) -> None:
    """`train.online.train` as a user runs it, a folder with its log included; no looks at dev, no checkpoints."""
    from truegain.recipes import grpo
    from truegain.train.folder import RunFolder
    from truegain.train.online import Setup, train

    form = grpo()
    sizes = {"prompts": work.prompts, "samples": work.samples, "max_tokens": work.tokens, "lr": work.lr}
    loop = form.loop.model_copy(update={**sizes, "steps": ENDLESS, "eval_every": 0, "save_every": 0})
    with tempfile.TemporaryDirectory() as place, RunFolder(Path(place) / "run") as folder:
        lines = train(Setup(replace(form, loop=loop), policy, Words(work), folder), lambda: None)

        def step() -> dict[str, Any]:
            for _ in range(steps):
                line = next(lines)
                assert line["kind"] == "step" and line["completions/min_length"] == work.tokens, line
            return {}

        worker.serve({"step": step, "memory": memory, **more})


def serve_trl(worker: Worker, work: Work, steps: int, model: Any, *, bf16: bool, recipe: str = "") -> None:
    """`GRPOTrainer.train`, which waits for the parent between steps; with a recipe, our trainer in its place."""
    from datasets import Dataset
    from transformers import PrinterCallback, TrainerCallback
    from trl import GRPOConfig, GRPOTrainer

    def reward(completions: list[str], **_: Any) -> list[float]:
        return [reward_of(text) for text in completions]

    class Turns(TrainerCallback):
        """Between two steps, says how long the last ones took and waits for its turn."""

        began, used, left = 0.0, 0.0, 0

        def on_step_begin(self, *_: Any, **__: Any) -> None:
            if self.left == 0:
                if self.began:
                    worker.say(seconds=time.perf_counter() - self.began, processor=time.process_time() - self.used)
                while worker.next() == "memory":
                    worker.say(**memory())
                self.left, self.began, self.used = steps, time.perf_counter(), time.process_time()
            self.left -= 1

    with tempfile.TemporaryDirectory() as place:
        given = trl_settings(work, place, bf16=bf16, use_cpu=model.device.type == "cpu")
        kind: Any = GRPOTrainer
        if recipe:
            from truegain.hosts.trl import TruegainGRPOTrainer

            kind = partial(TruegainGRPOTrainer, recipe=recipe)
            del given["loss_type"]  # the recipe's to say
        config = GRPOConfig(**given)
        data = Dataset.from_list([{"prompt": prompt_of(work, i)} for i in range(2000)])
        trainer = kind(
            model=model,
            reward_funcs=reward,
            args=config,
            train_dataset=data,
            processing_class=tokenizer_of(work),
            callbacks=[Turns()],
        )
        trainer.remove_callback(PrinterCallback)
        worker.ready(memory=memory())
        trainer.train()


def trl_settings(work: Work, place: str, *, bf16: bool, use_cpu: bool = True) -> dict[str, Any]:
    """GRPOConfig's fields: our loop's settings under TRL's names."""
    return {
        "output_dir": place,
        "use_cpu": use_cpu,
        "bf16": bf16,
        "use_vllm": False,
        "per_device_train_batch_size": work.prompts * work.samples,
        "num_generations": work.samples,
        "max_completion_length": work.tokens,
        "temperature": 1.0,
        "top_k": 0,
        "top_p": 1.0,
        "beta": 0.0,
        "loss_type": "grpo",
        "epsilon": 0.2,
        "learning_rate": work.lr,
        "lr_scheduler_type": "constant",
        "adam_beta1": 0.9,
        "adam_beta2": 0.99,
        "weight_decay": 0.0,
        "max_grad_norm": 1.0,
        "max_steps": ENDLESS,
        "gradient_checkpointing": False,
        "dataloader_pin_memory": False,
        "logging_steps": 1,
        "disable_tqdm": True,
        "save_strategy": "no",
        "report_to": "none",
    }
