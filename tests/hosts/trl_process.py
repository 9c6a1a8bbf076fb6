"""One of several processes that train together: ``trl_process.py MODEL OUT WORLD`` under torchrun's variables."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from trl_runs import LETTERS, furthest, scripted, settings, trainer_of, weights_of


def first_letters(steps: list[list[str]], **_: Any) -> list[list[float]]:
    """A step is worth the number of its first letter."""
    return [[LETTERS.index(step.replace("<end>", "a")[0]) / 10 for step in row] for row in steps]


CASES: dict[str, dict[str, Any]] = {
    "grpo": {},
    "reinforce-pp": {},
    "pure": {"columns": {"step_reward": first_letters}},
}


def train(model: str, out: Path, world: int) -> dict[str, Any]:
    """Two steps of each case on 16 rows, one group over all processes, in two micro-batches each."""
    found: dict[str, Any] = {}
    for recipe, more in CASES.items():
        args = settings(
            out / f"{recipe}-{world}",
            per_device_train_batch_size=8 // world,
            gradient_accumulation_steps=2,
            num_generations=16,
            max_steps=2,
            ddp_backend="gloo" if world > 1 else None,
        )
        trainer = trainer_of(model, args, recipe=recipe, rollout_func=scripted, **more)
        before = weights_of(trainer)
        trainer.train()
        assert furthest(before, weights_of(trainer)) > 1e-3
        found[recipe] = {"weights": weights_of(trainer), "log": trainer.state.log_history[:2]}
    return found


if __name__ == "__main__":
    place, processes = Path(sys.argv[2]), int(sys.argv[3])
    results = train(sys.argv[1], place, processes)
    torch.save(results, place / f"rank-{torch.distributed.get_rank()}.pt")
    torch.distributed.destroy_process_group()
