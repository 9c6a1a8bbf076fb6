"""Packed rows give the numbers of separate rows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

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


def both(policy: Policy, prompts: list[tuple[int, ...]], tokens: torch.Tensor, lengths: torch.Tensor):
    policy.model.zero_grad()
    logp, entropy = logprobs.token_logp(policy, prompts, tokens, lengths, temperature=0.7, entropy=True)
    assert entropy is not None
    (logp.sum() + 0.3 * entropy.sum()).backward()
    return [logp.detach(), entropy.detach(), *(p.grad.clone() for p in policy.model.parameters())]


def ragged() -> tuple[list[tuple[int, ...]], torch.Tensor, torch.Tensor]:
    """Prompts and completions of many lengths, groups not side by side."""
    prompts, tokens, lengths = rows()
    order = torch.randperm(len(prompts), generator=torch.Generator().manual_seed(2)).tolist()
    return [prompts[i] for i in order], tokens[order], lengths[order]


def even() -> tuple[list[tuple[int, ...]], torch.Tensor, torch.Tensor]:
    """All prompts equally long, and all completions."""
    prompts, tokens, lengths = rows()
    return [prompt[:20] for prompt in prompts], tokens, torch.full_like(lengths, 7)


@pytest.mark.parametrize("batch", [ragged, even])
def test_packed_rows_have_the_log_probs_entropies_and_gradients_of_separate_rows(
    batch: Callable[[], Any], monkeypatch: pytest.MonkeyPatch
):
    policy = small_policy()
    prompts, tokens, lengths = batch()
    found = packing.pack(prompts, tokens, lengths, 10**6, 64)
    assert found is not None and (found.cell is None) == (batch is even) and (len(found.mask) == 1) == (batch is even)
    packed = both(policy, prompts, tokens, lengths)
    monkeypatch.setattr(packing, "pack", lambda *_: None)
    for a, b in zip(packed, both(policy, prompts, tokens, lengths), strict=True):
        torch.testing.assert_close(a, b, atol=2e-5, rtol=1e-4)


def test_what_stands_in_the_padding_of_tokens_is_inert_when_packed():
    policy = small_policy()
    prompts, tokens, lengths = ragged()
    other = tokens.masked_fill(torch.arange(7) >= lengths[:, None], 33)
    for a, b in zip(both(policy, prompts, tokens, lengths), both(policy, prompts, other, lengths), strict=True):
        assert torch.equal(a, b)


def test_packing_pays_where_prompts_are_shared_or_lengths_differ_and_not_for_long_even_rows():
    def pays(prompt: int, lengths: list[int], group: int) -> bool:
        unique = [prompt] * (len(lengths) // group)
        return packing.pays(unique, [prompt] * len(lengths), lengths, params=870_000, width=512)

    assert pays(21, [18] * 16, group=8)
    assert pays(21, [18, 90] * 8, group=1)
    assert not pays(21, [18] * 16, group=1)
    assert not pays(4, [400] * 16, group=8)
