"""One of two processes that train under a guard: ``guard_process.py FOLDER`` under torchrun's variables."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from test_hosts_guard import KNOBS, ROWS, STEPS, Lessons, gold
from transformers import AutoModelForCausalLM, Trainer, TrainingArguments
from trl_runs import letter_tokenizer

from truegain.hosts.guard import GoldGapGuard

if __name__ == "__main__":
    place = Path(sys.argv[1])
    args = TrainingArguments(
        output_dir=str(place / "run"), use_cpu=True, per_device_train_batch_size=2, learning_rate=0.02,
        lr_scheduler_type="constant", max_steps=STEPS, logging_steps=1, disable_tqdm=True, save_strategy="no",
        report_to="none", train_sampling_strategy="sequential", dataloader_pin_memory=False, ddp_backend="gloo",
    )  # fmt: skip
    guard = GoldGapGuard(gold, ROWS, action="rollback", reusable=place / "holdout.json", **KNOBS)
    run = Trainer(
        AutoModelForCausalLM.from_pretrained(place / "model"), args, train_dataset=Lessons(),
        processing_class=letter_tokenizer(), callbacks=[guard],
    )  # fmt: skip
    run.train()
    torch.distributed.barrier()
    found = {
        "golds": [look.gold for look in guard.looks],
        "evidence": [look.evidence for look in guard.looks],
        "alarm": None if guard.alarm is None else guard.alarm.step,
        "stopped": run.state.global_step,
        "holdout": json.loads((place / "holdout.json").read_text())["asked"],
        "weights": float(sum(w.double().sum() for w in run.model.state_dict().values())),
    }
    (place / f"rank-{torch.distributed.get_rank()}.json").write_text(json.dumps(found))
    torch.distributed.destroy_process_group()
