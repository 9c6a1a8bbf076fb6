"""The work that both sides of a benchmark do: a random model, word prompts of one length, a trivial reward."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from truegain.core.draws import uniforms
from truegain.core.types import Environment, Problem, Rollout, Split
from truegain.policy.policy import Policy


@dataclass(frozen=True)
class Work:
    """Sizes of a step: ``prompts`` problems of ``start`` tokens, ``samples`` completions of ``tokens`` tokens each."""

    layers: int = 4
    width: int = 256
    inner: int = 688
    heads: int = 4
    vocabulary: int = 512
    prompts: int = 16
    samples: int = 8
    start: int = 32
    tokens: int = 48
    lr: float = 1e-5


END, PADDING = "<end>", "<padding>"
# 3.3 M parameters; and the shape of the embedded model `tiny` under the same work
WORKS = {
    "3.3M": Work(),
    "tiny": Work(width=128, inner=384, vocabulary=108),
}


def model_of(work: Work, dtype: torch.dtype = torch.float32) -> Any:
    """A Llama with random weights, the same for everybody."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=work.vocabulary,
        hidden_size=work.width,
        intermediate_size=work.inner,
        num_hidden_layers=work.layers,
        num_attention_heads=work.heads,
        num_key_value_heads=work.heads,
        max_position_embeddings=4096,
        tie_word_embeddings=True,
        pad_token_id=None,
        bos_token_id=None,
        eos_token_id=None,
    )
    return LlamaForCausalLM(config).to(dtype).eval()


def tokenizer_of(work: Work) -> Any:
    """Token i is the word ``i``. End and padding marks have ids that the model has no logit for: nobody draws them."""
    words = {str(i): i for i in range(work.vocabulary)} | {END: work.vocabulary, PADDING: work.vocabulary + 1}
    tokenizer = Tokenizer(WordLevel(words, unk_token="0"))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token=PADDING, eos_token=END)


def policy_of(work: Work, dtype: torch.dtype = torch.float32) -> Policy:
    """The random model with its tokenizer."""
    return Policy(model_of(work, dtype), tokenizer_of(work), "random")


def reward_of(text: str) -> float:
    """The trivial reward, in [0, 1]; rows of a group differ, so that no row drops out of the update."""
    return text.count("1") / (1 + len(text))


def prompt_of(work: Work, index: int) -> str:
    """The index-th prompt."""
    draws = uniforms(torch.tensor([index]), torch.arange(work.start)[None])[0] * work.vocabulary
    return " ".join(str(int(i)) for i in draws)


@dataclass(frozen=True)
class Words:
    """`truegain.core.types.Task` of the prompts above."""

    work: Work
    name: str = "words"
    stop: tuple[str, ...] = ()

    def problem(self, split: Split, index: int) -> Problem:
        return Problem(f"words-{split}-{index}", prompt_of(self.work, index), "")

    def size(self, split: Split) -> int | None:
        return None

    def score(self, problem: Problem, rollout: Rollout) -> Mapping[str, Any]:
        return {"correct": reward_of(rollout.text)}

    def final(self, problem: Problem, text: str) -> str | None:
        return None

    def environment(self) -> Callable[[], Environment] | None:
        return None

    def respond(self, env: Environment, text: str) -> str | None:
        return None


def weights_of(work: Work) -> int:
    """Weights that multiply, the head included once."""
    block = 4 * work.width**2 + 3 * work.width * work.inner
    return work.layers * block + work.vocabulary * work.width


def forward_operations(work: Work) -> float:
    """One forward pass over what the update has to compute: each prompt once for its group."""
    rows = work.prompts * work.samples
    body = weights_of(work) - work.vocabulary * work.width
    tokens = work.prompts * work.start + rows * work.tokens
    seen = work.prompts * work.start**2 / 2 + rows * sum(work.start + t + 1 for t in range(work.tokens))
    head = 2 * rows * work.tokens * work.vocabulary * work.width
    return 2 * body * tokens + head + 4 * work.layers * work.width * seen
