"""A transformer of 0.1 M parameters, and what it learns in seconds: permutations of digits, one after another."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from truegain.core.forms import Fit
from truegain.core.types import Problem
from truegain.policy.policy import Policy
from truegain.policy.tokenizer import character_tokenizer
from truegain.train.offline import begin, sft
from truegain.train.tiny import demonstration_example

LETTERS = "abcd"


@dataclass(frozen=True)
class Permutations:
    """``5abc`` asks for c(b(a(5))), with four permutations of the digits below 8 that nothing but examples tell."""

    tables: tuple[tuple[int, ...], ...]

    @staticmethod
    def drawn(seed: int) -> Permutations:
        """Those of a seed."""
        rng = random.Random(f"permutations {seed}")
        return Permutations(tuple(tuple(rng.sample(range(8), 8)) for _ in LETTERS))

    def problem(self, split: str, rng: random.Random) -> Problem:
        """One of 512 problems; every fourth of them is kept from ``train``."""
        while True:
            start, letters = rng.randrange(8), "".join(rng.choices(LETTERS, k=3))
            kept = random.Random(f"{start}{letters}").random() < 0.25
            if kept == (split != "train"):
                return Problem(f"{start}{letters}", f"{start}{letters}\n", str(self.results(start, letters)[-1]))

    def results(self, start: int, letters: str) -> list[int]:
        """What is reached after each letter."""
        found: list[int] = []
        for letter in letters:
            start = self.tables[LETTERS.index(letter)][start]
            found.append(start)
        return found


def fresh(seed: int) -> Policy:
    """An untrained Llama of three blocks over the character tokenizer."""
    tokenizer: Any = character_tokenizer()
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=48, intermediate_size=144, num_hidden_layers=3, num_attention_heads=4,
        num_key_value_heads=4, max_position_embeddings=256, tie_word_embeddings=True, initializer_range=0.02,
        pad_token_id=tokenizer.pad_token_id, bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
    )  # fmt: skip
    return Policy(LlamaForCausalLM(config), tokenizer, "small")


def fitted(form: Fit, draw: Callable[[random.Random], tuple[Problem, str]], seed: int, steps: int, rows: int) -> Policy:
    """A fresh transformer after ``steps`` of maximum likelihood on ``rows`` problems with what ``draw`` writes."""
    policy = fresh(seed)
    fit = begin(policy, optimizer="muon")

    def example(index: int) -> Any:
        return demonstration_example(policy, *draw(random.Random(f"{seed} {index}")))

    for _ in sft(form, policy, example, fit, steps=steps, rows=rows, lr=1e-2, warmup=20, schedule="wsd", decay=0.4):
        pass
    return policy
