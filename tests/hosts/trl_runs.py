"""A tiny random Qwen2 with a letter tokenizer in a folder, prompts, rewards and settings for TRL on a CPU."""

from __future__ import annotations

import os
import random
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from tokenizers import Tokenizer
from tokenizers.decoders import Fuse
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Split
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM
from trl import GRPOConfig

from truegain.hosts.trl import TruegainGRPOTrainer

os.environ["TRL_EXPERIMENTAL_SILENCE"] = "1"  # it warns of rollout functions, which we use to script completions
LETTERS = "ynabc\n1234"
WORDS = ["<pad>", "<end>", *LETTERS]


def letter_tokenizer() -> PreTrainedTokenizerFast:
    """A token is a letter; a newline ends a step."""
    letters = Tokenizer(WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="a"))
    letters.pre_tokenizer = Split("", "isolated")
    letters.decoder = Fuse()
    return PreTrainedTokenizerFast(tokenizer_object=letters, pad_token="<pad>", eos_token="<end>")


def write_model(place: Path, seed: int = 0) -> str:
    """A Qwen2 of 5 thousand weights, saved as any other checkpoint."""
    torch.manual_seed(seed)
    config = Qwen2Config(
        vocab_size=len(WORDS),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=64,
        pad_token_id=None,  # an embedding of padding gets no gradient, and here padding may be drawn
        eos_token_id=1,
        bos_token_id=None,
        initializer_range=0.3,
    )
    Qwen2ForCausalLM(config).save_pretrained(place)
    return str(place)


def prompts(count: int = 16) -> Dataset:
    rows = [{"prompt": f"{LETTERS[2 + i % 3]}{1 + i % 4}", "answer": "yn"[i % 2]} for i in range(count)]
    return Dataset.from_list(rows)


def said(completions: list[str], **_: Any) -> list[float]:
    """The mean number of a completion's letters, over 10: hardly two rows have the same."""
    return [sum(map(LETTERS.index, text)) / (1 + len(text)) / 10 for text in completions]


def correct(completions: list[str], answer: list[str], **_: Any) -> list[float]:
    """1 for a completion with the answer in it."""
    return [float(letter in text) for text, letter in zip(completions, answer, strict=True)]


def settings(place: Path | str, **changed: Any) -> GRPOConfig:
    """Float32, plain gradient descent, in which equal gradients give equal weights; two groups of four."""
    given: dict[str, Any] = {
        "output_dir": str(place),
        "use_cpu": True,
        "bf16": False,
        "per_device_train_batch_size": 8,
        "num_generations": 4,
        "max_completion_length": 8,
        "learning_rate": 0.5,
        "lr_scheduler_type": "constant",
        "optim": "sgd",
        "max_grad_norm": 1.0,
        "max_steps": 1,
        "gradient_checkpointing": False,
        "dataloader_pin_memory": False,
        "logging_steps": 1,
        "disable_tqdm": True,
        "save_strategy": "no",
        "report_to": "none",
    }
    return GRPOConfig(**{**given, **changed})


def trainer_of(model: str, args: GRPOConfig, kind: Any = TruegainGRPOTrainer, **more: Any) -> Any:
    given: dict[str, Any] = {"reward_funcs": said, "train_dataset": prompts(), **more}
    given.setdefault("processing_class", letter_tokenizer())
    return kind(model=model, args=args, **given)


def weights_of(trainer: Any) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in trainer.model.state_dict().items()}


def furthest(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    """The largest difference of two models' weights."""
    return max(float((one[name] - other[name]).abs().max()) for name in one)


def scripted(prompts: list[str], trainer: Any) -> dict[str, Any]:
    """A rollout function whose completions depend on nothing but the call and the row's number over all processes.

    In every second row the third and fourth token are a tool's.
    """
    first = trainer.accelerator.process_index * len(prompts)
    found: dict[str, Any] = {"prompt_ids": [], "completion_ids": [], "logprobs": [], "env_mask": []}
    for row, prompt in enumerate(prompts, start=first):
        rng = random.Random(1000 * trainer.state.global_step + row)
        ids = [rng.randrange(2, len(WORDS)) for _ in range(rng.randrange(4, 8))]
        found["prompt_ids"].append(trainer._tokenizer(prompt)["input_ids"])
        found["completion_ids"].append([*ids, 1] if row % 3 else ids)
        found["logprobs"].append([-2.0 - row / 100] * len(found["completion_ids"][-1]))
        tool = [int(not (row % 2 and t in (2, 3))) for t in range(len(found["completion_ids"][-1]))]
        found["env_mask"].append(tool)
    return found
