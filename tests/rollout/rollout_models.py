"""Small random models for the tests of the rollout room."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

V = 40
FAMILIES = {
    "llama": (LlamaConfig, LlamaForCausalLM),
    "qwen2": (Qwen2Config, Qwen2ForCausalLM),
    "qwen3": (Qwen3Config, Qwen3ForCausalLM),
}
LETTERS = "abcdefghijklmnopqrstuvwxyz .;:<>/\n012345#"


def model_of(family: str = "llama", *, kv: int = 2, tied: bool = False, vocabulary: int = V, **more: Any) -> Any:
    """A two-block model with weights so large that its distributions are far from uniform."""
    config, cls = FAMILIES[family]
    torch.manual_seed(3)
    model = cls(
        config(
            vocab_size=vocabulary,
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=kv,
            head_dim=12,
            tie_word_embeddings=tied,
            max_position_embeddings=128,
            **more,
        )
    )
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    return model.eval()


def gpt2() -> Any:
    torch.manual_seed(3)
    config = GPT2Config(vocab_size=V, n_embd=32, n_layer=2, n_head=4, n_positions=128, eos_token_id=0, bos_token_id=0)
    model = GPT2LMHeadModel(config)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model.eval()


@dataclass
class FakePolicy:
    """What engines ask of a policy; token i is written as the i-th letter."""

    model: Any
    eos_ids: frozenset[int] = frozenset()
    tokenizer: Any = None

    def load_weights(self, weights: Any) -> None:
        from truegain.policy.policy import Policy

        Policy(self.model, self.tokenizer, "fake").load_weights(weights)

    def decode(self, ids: Any) -> str:
        return "".join(LETTERS[i] for i in ids)

    def encode(self, text: str) -> tuple[int, ...]:
        return tuple(LETTERS.index(letter) for letter in text)

    def encode_prompt(self, prompt: str) -> tuple[int, ...]:
        return self.encode(prompt)
