"""What of verifiers our adapter leans on, as text: signatures, fields, what a hook's failure leaves on a trace."""

from __future__ import annotations

import inspect
import json
import sys
from pathlib import Path
from typing import Any

COMMITTED = Path(__file__).with_name("contract.json")
FUNCTIONS = (
    "v1.task:Task.score",
    "v1.task:Task.validate",
    "v1.task:Task.hooks",
    "v1.task:Task.with_data",
    "v1.taskset:Taskset.load",
    "v1.utils.decorators:invoke",
    "v1.utils.decorators:reward",
    "v1.utils.decorators:metric",
    "v1.utils.loaders:load_plugged_fn",
    "v1.utils.loaders:plugged_fn",
    "v1.utils.loaders:load_taskset",
    "v1.trace:Trace.to_record",
    "v1.episode:Episode.to_record",
    "v1.utils.trace_store:read_episodes",
)
MODELS = {
    "v1.task:TaskData": ("idx", "id", "name", "prompt", "system_prompt"),
    "v1.configs.task:TaskConfig": ("rewards", "metrics", "stops", "judges"),
    "v1.configs.task:RewardFunctionConfig": ("fn", "weight", "priority"),
    "v1.configs.taskset:TasksetConfig": ("id", "task", "system_prompt"),
    "v1.trace:Trace": ("id", "task", "agent", "nodes", "calls", "rewards", "metrics", "info", "errors", "ok",
                       "stop_condition", "is_timeout"),
    "v1.trace:TraceTask": ("type", "data", "key", "hash"),
    "v1.trace:Reward": ("score", "weight"),
    "v1.trace:ModelCall": ("finish_reason", "error"),
    "v1.graph:MessageNode": ("parent", "message", "sampled", "token_ids", "mask", "logprobs", "advantages", "entropies",
                             "reference_logprobs", "trainer_logprobs", "semantic_parents"),
    "v1.episode:Episode": ("task", "traces", "ok", "errors"),
}  # fmt: skip


def _found(path: str) -> Any:
    import importlib

    module, _, name = path.partition(":")
    found: Any = importlib.import_module(f"verifiers.{module}")
    for part in name.split("."):
        found = getattr(found, part)
    return found


def snapshot() -> dict[str, str]:
    """Each name with its signature or its fields' types; ``gone`` for what is not there."""
    lines: dict[str, str] = {}
    for path in FUNCTIONS:
        try:
            lines[path] = str(inspect.signature(_found(path)))
        except (ImportError, AttributeError):
            lines[path] = "gone"
    for path, names in MODELS.items():
        try:
            fields = _found(path).model_fields
        except (ImportError, AttributeError):
            lines[path] = "gone"
            continue
        for name in names:
            lines[f"{path}.{name}"] = str(fields[name].annotation) if name in fields else "gone"
    return lines


def changes(before: dict[str, str], now: dict[str, str]) -> list[str]:
    """In words, what is different."""
    return [
        f"{name} is gone" if now[name] == "gone" else f"{name}: {before.get(name, 'new')} -> {now[name]}"
        for name in now
        if now[name] != before.get(name)
    ]


if __name__ == "__main__":
    if sys.argv[1:] == ["--write"]:
        COMMITTED.write_text(json.dumps(snapshot(), indent=1) + "\n", encoding="utf-8")
    else:
        print(json.dumps(changes(json.loads(COMMITTED.read_text(encoding="utf-8")), snapshot())))
