"""Packed rows give the numbers of separate rows."""

from __future__ import annotations

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from truegain.policy import logprobs, packing
from truegain.policy.policy import Policy
from truegain.policy.tokenizer import character_tokenizer


def small_policy() -> Policy:
    torch.manual_seed(0)
    tokenizer = character_tokenizer()
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
    )
    return Policy(LlamaForCausalLM(config).eval(), tokenizer, "test")


def rows(prompts: int = 3, samples: int = 4) -> tuple[list[tuple[int, ...]], torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(1)
    heads = [tuple(torch.randint(5, 90, (20 + p,), generator=draw).tolist()) for p in range(prompts)]
    given = [head for head in heads for _ in range(samples)]
    lengths = torch.randint(1, 7, (len(given),), generator=draw)
    lengths[2] = 0
    return given, torch.randint(5, 90, (len(given), 7), generator=draw), lengths


def test_packed_rows_have_the_log_probs_entropies_and_gradients_of_separate_rows(monkeypatch: pytest.MonkeyPatch):
    policy = small_policy()
    prompts, tokens, lengths = rows()
    order = torch.randperm(len(prompts), generator=torch.Generator().manual_seed(2)).tolist()
    prompts, tokens, lengths = [prompts[i] for i in order], tokens[order], lengths[order]

    def both() -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        policy.model.zero_grad()
        logp, entropy = logprobs.token_logp(policy, prompts, tokens, lengths, temperature=0.7, entropy=True)
        assert entropy is not None
        (logp.sum() + 0.3 * entropy.sum()).backward()
        return [logp.detach(), entropy.detach()], [p.grad.clone() for p in policy.model.parameters()]

    assert packing.pack(prompts, tokens, lengths.tolist(), 10**6, 64) is not None
    packed = both()
    monkeypatch.setattr(packing, "pack", lambda *_: None)
    apart = both()
    for a, b in zip(packed[0] + packed[1], apart[0] + apart[1], strict=True):
        torch.testing.assert_close(a, b, atol=2e-5, rtol=1e-4)


def test_packing_is_refused_when_completions_are_long_beside_the_prompt():
    assert packing.samples_to_pack(prompt=21, completion=18, group=8, params=870_000, width=512) == 8
    assert packing.samples_to_pack(prompt=4, completion=400, group=8, params=870_000, width=512) == 1
    assert packing.samples_to_pack(prompt=100, completion=10, group=1, params=870_000, width=512) == 1
