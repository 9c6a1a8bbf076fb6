"""On a CUDA card: the same draws, log-probs and training as on the CPU. Skipped elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from truegain.core.types import Request, Sampling
from truegain.policy.logprobs import token_logp
from truegain.policy.policy import Policy
from truegain.rollout import cached
from truegain.rollout.engines import engine_for

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA card")

PROMPTS = ["12+34=", "7*8=", "905-17=", "3+3="]
SAMPLING = Sampling(max_tokens=40, temperature=1.2)


def policies() -> tuple[Policy, Policy]:
    return Policy.load("tiny"), Policy.load("tiny", device="cuda")


def requests(policy: Policy) -> list[Request]:
    return [Request(policy.encode_prompt(p), key=100 * i + k) for i, p in enumerate(PROMPTS) for k in range(6)]


@pytest.mark.parametrize("window", [256, 16])
def test_the_card_draws_what_the_cpu_draws(window: int, monkeypatch: pytest.MonkeyPatch) -> None:
    recorded: list[Any] = []
    true_record = cached.record
    monkeypatch.setattr(cached, "WINDOW", window)
    monkeypatch.setattr(cached, "record", lambda work: recorded.append(1) or true_record(work))
    here, there = (engine_for(policy).generate(requests(policy), SAMPLING) for policy in policies())
    assert recorded
    same = sum(a.ids == b.ids and a.stop == b.stop for a, b in zip(here, there, strict=True))
    assert same >= 22  # a draw near the border of two tokens may fall on the other side
    for a, b in zip(here, there, strict=True):
        if a.ids == b.ids:
            assert a.logp == pytest.approx(b.logp, abs=1e-3)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_recorded_steps_draw_what_plain_steps_draw(dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    policy = Policy.load("tiny", dtype=dtype, device="cuda")
    graphs = engine_for(policy).generate(requests(policy), SAMPLING)
    monkeypatch.setattr(cached, "record", lambda work: work)
    assert engine_for(policy).generate(requests(policy), SAMPLING) == graphs


def test_a_new_policy_is_drawn_from_at_once() -> None:
    _, policy = policies()
    engine = engine_for(policy)
    before = engine.generate(requests(policy), SAMPLING)
    with torch.no_grad():
        for parameter in policy.model.parameters():
            parameter.mul_(1.1)
    assert engine.generate(requests(policy), SAMPLING) != before


def test_log_probs_and_gradients_are_those_of_the_cpu() -> None:
    found = []
    for policy in policies():
        prompts = [policy.encode_prompt(p) for p in PROMPTS for _ in range(3)]
        tokens = torch.arange(12 * 20).view(12, 20) % 90 + 3
        logp, entropy = token_logp(policy, prompts, tokens, torch.arange(9, 21), entropy=True)
        assert entropy is not None
        (logp.sum() + entropy.sum()).backward()
        grads = [p.grad.cpu() for p in policy.model.parameters() if p.grad is not None]
        found.append((logp.detach().cpu(), entropy.detach().cpu(), *grads))
    for here, there in zip(*found, strict=True):
        assert torch.linalg.vector_norm(here - there) <= 1e-3 * torch.linalg.vector_norm(here)


@pytest.mark.parametrize("recipe", ["grpo", "ppo", "dapo", "dpo"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_recipes_train_on_the_card(recipe: str, dtype: str, tmp_path: Path) -> None:
    from typer.testing import CliRunner

    from truegain.cli.__main__ import app

    place = ["--device", "cuda", "--dtype", dtype, "--out", str(tmp_path / "run")]
    small = ["--steps", "3", "--dev-problems", "4", "--test-problems", "8", "--set", "prompts=4"]
    result = CliRunner().invoke(app, ["train", recipe, "--task", "sort", *place, *small])
    assert result.exit_code == 0, result.output
