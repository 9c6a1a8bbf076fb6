"""One look at the problems of the gold-gap guard inside another trainer: complete them all, and score by gold."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from transformers import GenerationConfig

from truegain.core.errors import DataError, SettingError
from truegain.core.types import Abstain, Problem, Rollout, Task, Turn
from truegain.tasks.fixed import fixed_problems
from truegain.tasks.functions import without_end_marks

Row = Mapping[str, Any]
Score = Callable[..., Any]
Generate = Callable[[Any, Any, Sequence[Row], int], Sequence[str]]


@dataclass(frozen=True)
class Decoding:
    """How problems are completed: tokens at most, sampling temperature (0 is greedy), rows at a time.

    ``template`` is handed to the chat template of a conversation, such as ``{"enable_thinking": False}``.
    """

    max_tokens: int = 256
    temperature: float = 1.0
    rows: int = 32
    template: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Raise SettingError for what cannot be."""
        if self.max_tokens < 1 or self.rows < 1 or not self.temperature >= 0:
            raise SettingError(f"gold-gap guard: {self}: tokens and rows are 1 or more, the temperature 0 or more")


def problem_rows(gold: Any, problems: int | Iterable[Any] | None) -> list[dict[str, Any]]:
    """The rows that are looked at: given ones, or the first so many of a task's dev split.

    Raises DataError for fewer than 2 rows, or one without a ``prompt``.
    """
    if hasattr(gold, "problem") and (problems is None or isinstance(problems, int)):
        found = fixed_problems(gold, "dev", 128 if problems is None else problems)
        return [{"prompt": problem.prompt, "answer": problem.answer, "problem": problem} for problem in found]
    if problems is None or isinstance(problems, int):
        raise SettingError(
            "gold-gap guard: give problems, a data set or a list of rows with a 'prompt', none of which is trained on"
        )
    rows = [_row(one) for one in problems]
    if len(rows) < 2 or any("prompt" not in row for row in rows):
        raise DataError(f"gold-gap guard: {len(rows)} problems; it needs 2 or more, each with a 'prompt'")
    return rows


def _row(one: Any) -> dict[str, Any]:
    if isinstance(one, Problem):
        return {"prompt": one.prompt, "answer": one.answer, "problem": one, **one.meta}
    return dict(one)


def complete(model: Any, tokenizer: Any, rows: Sequence[Row], how: Decoding, seed: int) -> list[str]:
    """A completion of every row by ``model.generate``; the process's own random state is left as it was."""
    texts: list[str] = []
    was_training = model.training
    places = [model.device] if model.device.type == "cuda" else []
    model.eval()
    try:
        with torch.random.fork_rng(devices=places), torch.no_grad(), _no_settings_of_its_own(model):
            torch.manual_seed(seed)
            for begin in range(0, len(rows), how.rows):
                texts += _batch(model, tokenizer, rows[begin : begin + how.rows], how)
    finally:
        model.train(was_training)
    return texts


KEPT = ("bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id")


@contextmanager
def _no_settings_of_its_own(model: Any) -> Iterator[None]:
    """Without what the model's generation settings cut off or punish; the ids of its special tokens stay.

    In place, as adapters and other wrappers share the object, and ``generate`` fills from it what it is not given.
    """
    config = getattr(model, "generation_config", None)
    if not isinstance(config, GenerationConfig):
        yield
        return
    own = dict(vars(config))
    fresh = GenerationConfig(**{name: own[name] for name in KEPT if own.get(name) is not None})
    vars(config).clear()
    vars(config).update(vars(fresh))
    try:
        yield
    finally:
        vars(config).clear()
        vars(config).update(own)


def _ends(model: Any, tokenizer: Any) -> list[int]:
    """The ids that end a completion: the tokenizer's, and those that the model's settings name."""
    own = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    ids = [tokenizer.eos_token_id, *(own if isinstance(own, list | tuple) else [own])]
    return sorted({int(one) for one in ids if one is not None})


def _batch(model: Any, tokenizer: Any, rows: Sequence[Row], how: Decoding) -> list[str]:
    prompts = [_prompt(tokenizer, row["prompt"], how.template) for row in rows]
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    wide = max(map(len, prompts))
    ids = torch.tensor([[pad] * (wide - len(p)) + p for p in prompts], device=model.device)
    mask = torch.tensor([[0] * (wide - len(p)) + [1] * len(p) for p in prompts], device=model.device)
    drawn: dict[str, Any] = {"do_sample": False}
    if how.temperature > 0:
        # The whole distribution: the library's default cuts it off after 50 tokens.
        drawn = {"do_sample": True, "temperature": how.temperature, "top_k": 0, "top_p": 1.0}
    out = model.generate(
        input_ids=ids, attention_mask=mask, max_new_tokens=how.max_tokens, pad_token_id=pad,
        eos_token_id=_ends(model, tokenizer) or None, **drawn,
    )  # fmt: skip
    return tokenizer.batch_decode(out[:, wide:], skip_special_tokens=True)


def _prompt(tokenizer: Any, prompt: Any, template: Mapping[str, Any]) -> list[int]:
    if isinstance(prompt, str):
        return list(tokenizer(prompt)["input_ids"])
    how = {**template, "add_generation_prompt": True, "tokenize": True, "return_dict": True}
    found = tokenizer.apply_chat_template(list(prompt), **how)
    return list(found["input_ids"])


def gold_scores(gold: Any, rows: Sequence[Row], texts: Sequence[str], bounds: tuple[float, float]) -> np.ndarray:
    """Gold of every completion, scaled to [0, 1] by its bounds; NaN where it gave none.

    Raises DataError where the scorer raises, for scores beyond the bounds or that are no numbers, and for a number of
    scores that is not the rows'.
    """
    try:
        found = _by_task(gold, rows, texts) if hasattr(gold, "problem") else _by_function(gold, rows, texts)
        values = np.array([math.nan if v is None else float(v) for v in found])
    except Exception as error:  # whatever a scorer of somebody else's raises
        raise DataError(f"gold-gap guard: gold raised {type(error).__name__}: {error}") from error
    if len(found) != len(rows):
        raise DataError(f"gold-gap guard: gold gave {len(found)} scores for {len(rows)} completions")
    low, high = bounds
    scores = (values - low) / (high - low)
    if bool(((scores < -1e-9) | (scores > 1 + 1e-9)).any()):
        raise DataError(f"gold-gap guard: a gold score lies outside bounds={bounds}; give its least and largest value")
    return np.clip(scores, 0.0, 1.0)


def _by_function(gold: Score, rows: Sequence[Row], texts: Sequence[str]) -> Sequence[Any]:
    """As TRL calls a reward function: with keywords, a list per column."""
    names = [name for name in dict.fromkeys(name for row in rows for name in row) if name != "prompt"]
    columns: dict[str, Any] = {name: [row.get(name) for row in rows] for name in names}
    columns["prompts"] = [row["prompt"] for row in rows]
    columns["completions"] = [
        text if isinstance(row["prompt"], str) else [{"role": "assistant", "content": text}]
        for row, text in zip(rows, texts, strict=True)
    ]
    takes = inspect.signature(gold).parameters.values()
    if not any(one.kind is inspect.Parameter.VAR_KEYWORD for one in takes):
        columns = {one.name: columns[one.name] for one in takes if one.name in columns}
    return list(gold(**columns))


def _by_task(task: Task, rows: Sequence[Row], texts: Sequence[str]) -> Sequence[float | None]:
    found: list[float | None] = []
    for row, text in zip(rows, texts, strict=True):
        problem = row.get("problem") or Problem("row", row["prompt"], row.get("answer"), {})
        written = without_end_marks(text)
        rollout = Rollout(problem, (), (0,), (0.0,), written, "eos", (Turn("policy", 0, 1),))
        verdict = task.score(problem, rollout)
        value = None if isinstance(verdict, Abstain) else verdict.get("correct")
        found.append(None if value is None else float(value))
    return found
