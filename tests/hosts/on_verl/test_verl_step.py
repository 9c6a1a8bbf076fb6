"""A real model, one step: verl's own functions with our names move the weights as our own loop does."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from batches import GROUP, actor, advantage, ppo_loss
from torch import Tensor
from verl.workers.config import PolicyLossConfig

from truegain.core import arithmetic
from truegain.core.forms import Train
from truegain.core.settings import loop_with
from truegain.core.system import build
from truegain.core.types import Problem, Rollout, Turn
from truegain.policy.policy import Policy
from truegain.train.models import load_models
from truegain.train.online import Setup, facts_of, learn
from truegain.train.shaping import before_probes

ROWS, LIMIT, RATE = 8, 9, 0.05


def rollouts(policy: Policy) -> list[Rollout]:
    """Two prompts, four completions each, with a tool's two tokens in every second; half of them are right."""
    draw = random.Random(5)
    # Without the special tokens: the embedding of padding has no gradient of its own.
    vocabulary = range(4, policy.model.config.vocab_size)
    found: list[Rollout] = []
    for i in range(ROWS):
        prompt = tuple(draw.choice(vocabulary) for _ in range(4 + i // GROUP))
        if i % GROUP:
            prompt = found[-1].prompt_ids
        length = draw.randrange(5, LIMIT + 1)
        ids = tuple(draw.choice(vocabulary) for _ in range(length))
        spans = [("policy", 0, 2), ("tool", 2, 4), ("policy", 4, length)] if i % 2 else [("policy", 0, length)]
        turns = tuple(Turn(author, start, end) for author, start, end in spans)  # type: ignore[arg-type]
        facts = {"correct": float(draw.random() < 0.5) if i % GROUP else float(i // GROUP)}
        problem = Problem(f"p{i // GROUP}", "asked")
        found.append(Rollout(problem, prompt, ids, (0.0,) * length, "", "eos", turns, key=i, facts=facts))
    return found


def in_our_loop(form: Train, rows: list[Rollout]) -> dict[str, Tensor]:
    policy = Policy.load("tiny")
    models = load_models(form, policy, policy.reference())
    models["policy"] = replace(models["policy"], optimiser=torch.optim.SGD(policy.model.parameters(), lr=RATE))
    setup = Setup(form, policy, None, None)  # type: ignore[arg-type]
    batch, _ = arithmetic.reward_stage(form, before_probes(setup, models, rows), facts_of(form, 0))
    learn(setup, models, batch, rows, 0)
    return {name: value.detach() for name, value in policy.model.state_dict().items()}


def log_probs(model: Any, rows: list[Rollout]) -> Tensor:
    """Log-probs [B,T] of the completions' tokens, one forward a row, zeros behind."""
    out: list[Tensor] = []
    for row in rows:
        logits = model(torch.tensor([[*row.prompt_ids, *row.ids]])).logits[0, len(row.prompt_ids) - 1 : -1]
        own = logits.float().log_softmax(-1).gather(1, torch.tensor(row.ids)[:, None])[:, 0]
        out.append(torch.nn.functional.pad(own, (0, LIMIT - len(row.ids))))
    return torch.stack(out)


def in_verl(name: str, rows: list[Rollout], micro: int, **settings: Any) -> dict[str, Tensor]:
    """verl's advantages and its actor's loss over micro-batches, and the same optimiser."""
    model = Policy.load("tiny").model
    mask = torch.tensor([[*map(int, row.mask), *[0] * (LIMIT - len(row.ids))] for row in rows])
    rewards = torch.zeros(ROWS, LIMIT)
    for i, row in enumerate(rows):
        rewards[i, len(row.ids) - 1] = row.facts["correct"]
    index = np.array([row.problem.id for row in rows], dtype=object)
    advantages, _ = advantage(name, rewards, mask, index)
    with torch.no_grad():
        old = log_probs(model, rows)
    config = actor(policy_loss=PolicyLossConfig(loss_mode=name), **settings)
    optimiser = torch.optim.SGD(model.parameters(), lr=RATE)
    for start in range(0, ROWS, micro):
        part = slice(start, start + micro)
        columns = {"response_mask": mask[part], "old_log_probs": old[part], "advantages": advantages[part]}
        loss, metrics = ppo_loss(config, log_probs(model, rows[part]), columns, int(mask.sum()), ROWS)
        assert "truegain/clip_ratio/region_mean" in metrics
        loss.backward()
    optimiser.step()
    return {key: value.detach() for key, value in model.state_dict().items()}


CASES = {
    "grpo": {"loss_agg_mode": "seq-mean-token-mean"},
    "dr-grpo": {"loss_agg_mode": "seq-mean-token-sum-norm", "loss_scale_factor": LIMIT},
    "rloo": {"loss_agg_mode": "seq-mean-token-sum"},
    "lite-ppo": {"loss_agg_mode": "token-mean"},
}


@pytest.mark.parametrize("recipe", CASES)
def test_one_batch_moves_a_real_model_in_verl_as_it_does_in_our_loop(recipe: str) -> None:
    (form,) = build(recipe)
    assert isinstance(form, Train)
    form = loop_with(form, max_tokens=LIMIT, grad_clip=1e9)
    before = {name: value.detach().clone() for name, value in Policy.load("tiny").model.state_dict().items()}
    rows = rollouts(Policy.load("tiny"))
    ours = in_our_loop(form, rows)
    name = f"truegain_{recipe.replace('-', '_')}"
    theirs = in_verl(name, rows, 2, **CASES[recipe])
    moved = max(float((theirs[key] - before[key]).abs().max()) for key in before)
    apart = max(float((theirs[key] - ours[key]).abs().max()) for key in before)
    assert moved > 1e-3, "nothing was learned, so nothing was compared"
    assert apart < 1e-4 * moved, (apart, moved)
