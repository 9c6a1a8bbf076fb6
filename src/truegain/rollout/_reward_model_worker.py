"""How a worker asks a reward model about completions. Loaded by path in worker processes."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

from truegain.runtime._batch_call import number
from truegain.tasks._reward_worker import SPEC, each


def ready(call: Callable[..., Any]) -> Callable[..., Any]:
    """An adapter of `model` that loads the model when the worker starts, so that no call pays for it."""
    _model(os.environ[SPEC])
    return call


def model(payload: dict[str, Any]) -> dict[str, Any]:
    """Score completions by the reward model in ``folder``, an ensemble by its mean; all at once where it may."""
    made = _model(payload["folder"])
    asked = [made.tokens(prompt, text) for prompt, text in zip(payload["prompts"], payload["texts"], strict=True)]

    def scores(rows: Sequence[tuple[Any, Any]]) -> list[float]:
        return made.score([prompt for prompt, _ in rows], [text for _, text in rows]).mean(dim=1).tolist()

    if payload["do"] == "batch":
        began = time.perf_counter()
        found = scores(asked)
        seconds = (time.perf_counter() - began) / len(asked)
        return {"rewards": [number(value) for value in found], "seconds": [seconds] * len(asked)}
    return each(lambda i: number(scores(asked[i : i + 1])[0]), len(asked), payload, None)


@cache
def _model(folder: str) -> Any:
    import torch

    from truegain.policy.reward_model import RewardModels

    torch.set_num_threads(1)
    return RewardModels.load(folder)
