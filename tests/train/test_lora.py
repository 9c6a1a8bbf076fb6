"""LoRA in the online loop: the adapter alone is trained, saved and taken up again."""

from __future__ import annotations

import itertools
from contextlib import closing
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file
from train_runs import BANDIT, equal, form_of, llama, untimed

from truegain.policy.policy import Policy
from truegain.recipes.grpo import grpo
from truegain.tasks import make
from truegain.train.folder import RunFolder
from truegain.train.online import Setup, train


@pytest.fixture
def base(tmp_path):
    return llama(tmp_path / "base")


def lines_of(folder, policy, form, most=None):
    """Train, or only until ``most`` lines were yielded."""
    with RunFolder(folder) as held, closing(train(Setup(form, policy, make(BANDIT), held), lambda: None)) as going:
        return untimed(itertools.islice(going, most))


def test_a_run_trains_and_saves_the_adapter_alone(tmp_path, base):
    policy = Policy.load(base).with_lora(rank=2)
    frozen = {n: p.detach().clone() for n, p in policy.model.named_parameters() if not p.requires_grad}
    start = policy.weights()
    lines_of(tmp_path / "run", policy, form_of(steps=4, lr=0.01))
    moved = policy.weights()
    assert all(not torch.equal(start[name], moved[name]) for name in start if "lora_B" in name)
    assert all(torch.equal(p, frozen[n]) for n, p in policy.model.named_parameters() if n in frozen)
    (checkpoint,) = (tmp_path / "run" / "checkpoints").glob("step-*4")
    assert len(load_file(checkpoint / "adapter_model.safetensors")) == len(start)
    assert not (checkpoint / "model.safetensors").exists()
    assert equal(Policy.load(tmp_path / "run").weights(), moved)


def test_a_run_that_was_cut_off_goes_on_to_the_same_adapter(tmp_path, base):
    form = form_of(steps=8, lr=0.01)
    whole, cut, resumed = (Policy.load(base).with_lora(rank=2, seed=seed) for seed in (0, 0, 1))
    lines_of(tmp_path / "whole", whole, form)
    lines_of(tmp_path / "cut", cut, form, most=9)
    lines_of(tmp_path / "cut", resumed, form)
    assert equal(resumed.weights(), whole.weights())


def test_the_penalty_is_to_the_policy_before_training(tmp_path, base):
    form = replace(grpo(beta=0.05), loop=form_of(steps=3, lr=0.01, eval_every=0).loop)
    steps = [line for line in lines_of(tmp_path, Policy.load(base).with_lora(rank=2), form) if line["kind"] == "step"]
    assert abs(steps[0]["kl"]) < 1e-6 < steps[-1]["kl"]
