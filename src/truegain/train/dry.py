"""`--dry-run`: what a run would do, found by taking one step on a throw-away copy."""

from __future__ import annotations

import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from truegain.core.arithmetic import named_columns
from truegain.core.columns import COLUMNS
from truegain.core.component import spec_of
from truegain.core.forms import members
from truegain.core.settings import settings
from truegain.policy.policy import Policy
from truegain.tasks.mixture import parse
from truegain.train.folder import RunFolder
from truegain.train.online import Setup, check, problems, train
from truegain.train.run import Plan, fitted, load_policy, proxy_is_gold, reward_functions


def dry_run(plan: Plan) -> dict[str, Any]:
    """Composition, first prompt, size, memory and seconds per step of a plan; nothing of it is kept.

    ``memory_bytes`` counts weights, reference, gradients and both AdamW moments, and the activations and logits of one
    micro-batch: an estimate, mostly too high. ``seconds_per_step`` is the second of two steps, really taken.
    """
    task = parse(plan.task, needs_answer=not plan.rewards)
    form = fitted(plan.form, task)
    check(form)
    policy = load_policy(plan, plan.seeds[0])
    first = problems(task, "train", 0, 1, plan.seeds[0])[0]
    prompt = policy.encode_prompt(first.prompt)
    size = sum(p.numel() for p in policy.model.parameters())
    with reward_functions(plan.rewards) as functions:
        seconds = _seconds_per_step(replace(plan, form=form), policy, functions)
    stages = {"reward": form.reward, "select": form.select, "plan": form.plan}
    for n, term in enumerate(form.terms):
        stages |= {f"term {n} {kind}": getattr(term, kind) for kind in ("credit", "weight", "surrogate")}
    return {
        "composition": {name: [spec_of(m).full_name for m in members(stage)] for name, stage in stages.items()},
        "settings": settings(form),
        "columns": [COLUMNS[name].line() for name in sorted(named_columns(form))],
        "proxy_is_gold": proxy_is_gold(form),
        "prompt": policy.decode(prompt),
        "prompt_tokens": list(prompt),
        "parameters": size,
        "memory_bytes": _memory(policy, form.loop.micro_tokens, size),
        "seconds_per_step": seconds,
    }


def _seconds_per_step(plan: Plan, policy: Policy, functions: Any) -> float:
    loop = plan.form.loop.model_copy(update={"steps": 2, "eval_every": 0, "save_every": 0})
    took = 0.0
    with tempfile.TemporaryDirectory() as place, RunFolder(Path(place) / "run") as folder:
        task = parse(plan.task, needs_answer=not plan.rewards)
        setup = Setup(replace(plan.form, loop=loop), policy, task, folder, plan.seeds[0], functions)
        began = time.perf_counter()
        for line in train(setup, lambda: None):
            if line["kind"] == "step":
                took = time.perf_counter() - began
                began = time.perf_counter()
    return took


def _memory(policy: Policy, micro_tokens: int, size: int) -> int:
    """Bytes: five copies of the weights, about 40 activations of width d per layer and token, and a chunk of logits."""
    config = policy.model.config
    layers, width = int(getattr(config, "num_hidden_layers", 0)), int(getattr(config, "hidden_size", 0))
    number = policy.dtype.itemsize
    return 5 * size * number + 40 * layers * width * micro_tokens * number + 3 * 256 * 2**20
