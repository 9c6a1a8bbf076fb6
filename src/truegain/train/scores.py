"""Completions of a file of pairs, scored by reward models: what benchmarks of reward models read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from truegain.core.types import SPLITS
from truegain.policy.reward_model import RewardModels
from truegain.tasks.pairs import PairFile
from truegain.train.pairs import pair_ids


def scored_completions(model: str | Path, file: Path, *, dtype: str = "float32", device: str = "cpu") -> list[Any]:
    """A row per completion of all splits: ``problem`` (the prompt's), ``correct`` 1 or 0, ``score`` of each model.

    A completion that stands in several pairs of a prompt, on the same side, is one row. Raises DataError for a model
    without a scalar head, and for rows that `PairFile` refuses.
    """
    models, source = RewardModels.load(model, dtype=dtype, device=device), PairFile(file)
    rows: dict[tuple[str, str, bool], tuple[tuple[int, ...], tuple[int, ...]]] = {}
    for split in SPLITS:
        for index in range(source.size(split)):
            pair = source.pair(split, index)
            ids = pair_ids(models.members[0][0], pair)
            for text, tokens, good in ((pair.chosen, ids.chosen, True), (pair.rejected, ids.rejected, False)):
                rows[pair.id, text, good] = (ids.prompt, tokens)
    found = models.score([prompt for prompt, _ in rows.values()], [tokens for _, tokens in rows.values()])
    return [
        {"problem": problem, "correct": float(good), "score": score}
        for (problem, _, good), score in zip(rows, found.tolist(), strict=True)
    ]
