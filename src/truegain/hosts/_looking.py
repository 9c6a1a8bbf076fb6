"""One look at the problems of the gold-gap guard inside another trainer: complete them all, and score by gold."""

from __future__ import annotations

import inspect
import logging
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from truegain.core.errors import DataError, SettingError
from truegain.core.types import Abstain, Problem, Rollout, Task, Turn
from truegain.tasks.fixed import fixed_problems
from truegain.tasks.functions import without_end_marks

log = logging.getLogger("truegain")
Row = Mapping[str, Any]
Score = Callable[..., Any]
Generate = Callable[[Any, Any, Sequence[Row], int], Sequence[str]]


@dataclass(frozen=True)
class Decoding:
    """How problems are completed: tokens at most, sampling temperature (0 is greedy), rows at a time."""

    max_tokens: int = 256
    temperature: float = 1.0
    rows: int = 32

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
        with torch.random.fork_rng(devices=places), torch.no_grad():
            torch.manual_seed(seed)
            for begin in range(0, len(rows), how.rows):
                texts += _batch(model, tokenizer, rows[begin : begin + how.rows], how)
    finally:
        model.train(was_training)
    return texts


def _batch(model: Any, tokenizer: Any, rows: Sequence[Row], how: Decoding) -> list[str]:
    prompts = [_prompt(tokenizer, row["prompt"]) for row in rows]
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    wide = max(map(len, prompts))
    ids = torch.tensor([[pad] * (wide - len(p)) + p for p in prompts], device=model.device)
    mask = torch.tensor([[0] * (wide - len(p)) + [1] * len(p) for p in prompts], device=model.device)
    drawn: dict[str, Any] = {"do_sample": False}
    if how.temperature > 0:
        # The whole distribution, whatever the model's own generation settings cut off.
        drawn = {"do_sample": True, "temperature": how.temperature, "top_k": 0, "top_p": 1.0}
    out = model.generate(
        input_ids=ids, attention_mask=mask, max_new_tokens=how.max_tokens, pad_token_id=pad,
        eos_token_id=tokenizer.eos_token_id, **drawn,
    )  # fmt: skip
    return tokenizer.batch_decode(out[:, wide:], skip_special_tokens=True)


def _prompt(tokenizer: Any, prompt: Any) -> list[int]:
    if isinstance(prompt, str):
        return list(tokenizer(prompt)["input_ids"])
    found = tokenizer.apply_chat_template(list(prompt), add_generation_prompt=True, tokenize=True, return_dict=True)
    return list(found["input_ids"])


def gold_scores(gold: Any, rows: Sequence[Row], texts: Sequence[str], bounds: tuple[float, float]) -> np.ndarray:
    """Gold of every completion, scaled to [0, 1] by its bounds; NaN where it gave none.

    A scorer that raises has abstained from the whole look, and says so in a warning: a guard ends no training because
    a checker crashed. Raises DataError for scores beyond the bounds, and for a number of scores that is not the rows'.
    """
    try:
        found = _by_task(gold, rows, texts) if hasattr(gold, "problem") else _by_function(gold, rows, texts)
    except Exception as error:  # whatever a scorer of somebody else's raises
        log.warning("gold-gap guard: gold raised %s: %s; the look counts as abstained", type(error).__name__, error)
        return np.full(len(rows), math.nan)
    if len(found) != len(rows):
        raise DataError(f"gold-gap guard: gold gave {len(found)} scores for {len(rows)} completions")
    low, high = bounds
    scores = (np.array([math.nan if v is None else float(v) for v in found]) - low) / (high - low)
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
