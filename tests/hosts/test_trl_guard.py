"""The gold-gap guard among a trainer's callbacks logs where the trainer logs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import Trainer, TrainerCallback, TrainingArguments
from trl_runs import said, settings, trainer_of, write_model

from truegain.hosts.guard import GoldGapGuard


class Tracker(TrainerCallback):
    """What a tracker is sent."""

    def __init__(self) -> None:
        self.lines: list[dict[str, float]] = []

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        self.lines.append(dict(logs))


def test_what_a_guard_logs_reaches_the_trackers(tmp_path: Path) -> None:
    model = write_model(tmp_path / "model")

    def gold(completions: list[str], **_: Any) -> list[float]:
        return said(completions)

    guard, later = (GoldGapGuard(gold, [{"prompt": "a1"}, {"prompt": "b2"}], every=1, max_tokens=4) for _ in "ab")
    earlier = trainer_of(model, settings(tmp_path), callbacks=[guard])
    assert guard.trainer is earlier
    tracker = Tracker()
    trainer = trainer_of(model, settings(tmp_path), callbacks=[guard, tracker])
    assert guard.trainer is trainer, "a guard that is used again logs where it is used"
    trainer.train()
    assert sum("truegain/gold_gap" in line for line in tracker.lines) == 2
    assert sum("reward" in line for line in tracker.lines) == 1
    trainer.add_callback(later)
    assert later.trainer is trainer
    elsewhere = Trainer(model=trainer.model, args=TrainingArguments(str(tmp_path), use_cpu=True, report_to="none"))
    told = GoldGapGuard(gold, [{"prompt": "a1"}, {"prompt": "b2"}], trainer=elsewhere)
    trainer.add_callback(told)
    assert told.trainer is elsewhere
