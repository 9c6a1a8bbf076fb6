"""Preference pairs from JSONL, JSON and parquet files in TRL's columns: ``prompt``, ``chosen``, ``rejected``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from truegain.core.errors import DataError, SettingError, nearest
from truegain.core.types import SPLITS, Message, Pair, Split
from truegain.tasks._file_rows import digest, is_message
from truegain.tasks._rows import Row, jsonable, read_rows
from truegain.tasks.files import _bucket  # pyright: ignore[reportPrivateUsage]

SIDES = ("chosen", "rejected")


class PairFile:
    """A finite set of preference pairs, dealt into splits by a hash of the prompt: 8 tenths train, 1 dev, 1 test.

    ``chosen`` and ``rejected`` are text, or messages of which the last is the completion. Without ``prompt`` (TRL's
    implicit form) the prompt is what both begin with: their common messages, or for text the common beginning up to
    its last line break. Rows whose two completions are equal say nothing and are left out; ``notes`` counts them.

    Raises DataError for a row that cannot be used.
    """

    def __init__(self, path: str | Path) -> None:
        """Read the whole file."""
        self.path = Path(path)
        self.name = self.path.stem
        self._splits: dict[Split, list[Pair]] = {split: [] for split in SPLITS}
        equal = 0
        for place, row in read_rows(self.path):
            pair = _pair(f"{self.path}, {place}", self.name, row)
            if pair.chosen == pair.rejected:
                equal += 1
                continue
            self._splits[_bucket(pair.id)].append(pair)
        self.notes = (f"{equal} rows have two equal completions: left out",) if equal else ()

    def size(self, split: Split) -> int:
        """How many pairs the split has."""
        return len(self._of(split))

    def pair(self, split: Split, index: int) -> Pair:
        """The index-th pair of a split, in the file's order. Raises IndexError past the end."""
        pairs = self._of(split)
        if not 0 <= index < len(pairs):
            raise IndexError(f"{self.name}: the {split} split has {len(pairs)} pairs, no index {index}")
        return pairs[index]

    def _of(self, split: Split) -> Sequence[Pair]:
        if split not in self._splits:
            raise SettingError(f"unknown split {split!r}{nearest(str(split), SPLITS)}; legal: {', '.join(SPLITS)}")
        return self._splits[split]


def _pair(place: str, task: str, row: Row) -> Pair:
    for side in SIDES:
        if side not in row:
            raise DataError(
                f"{place}: no column {side!r}{nearest(side, set(row))}; pairs have prompt, chosen, rejected"
            )
    prompt, chosen, rejected = _parted(place, row)
    if not chosen or not rejected:
        raise DataError(f"{place}: a completion is empty; remove the row or fill it in")
    meta = {"task": task, **{k: jsonable(v) for k, v in row.items() if k not in ("prompt", *SIDES)}}
    return Pair(f"{task}-{digest(place, prompt).hex()}", prompt, chosen, rejected, meta)


def _parted(place: str, row: Mapping[str, Any]) -> tuple[str | tuple[Message, ...], str, str]:
    """Prompt and the two completions as text, whichever of TRL's forms the row has."""
    chosen: Any = row.get("chosen")
    rejected: Any = row.get("rejected")
    prompt: Any = row.get("prompt")
    if isinstance(chosen, str) and isinstance(rejected, str):
        if isinstance(prompt, str) and prompt.strip():
            return prompt, chosen, rejected
        if prompt is None:
            return _common_text(place, chosen, rejected)
        if _messages(prompt):
            return tuple(_plain(m) for m in prompt), chosen, rejected
    if _messages(chosen) and _messages(rejected):
        before, after = [_plain(m) for m in chosen], [_plain(m) for m in rejected]
        if before[:-1] != after[:-1]:
            raise DataError(f"{place}: chosen and rejected differ before their last message; only that may differ")
        given = [_plain(m) for m in prompt] if _messages(prompt) else []
        given += [{"role": "user", "content": prompt}] if isinstance(prompt, str) and len(before) == 1 else []
        whole = (*(given if before[: len(given)] != given else []), *before[:-1])
        if whole:
            return whole, before[-1]["content"], after[-1]["content"]
    raise DataError(
        f"{place}: chosen and rejected must both be text, or both be messages, after a prompt that is not empty"
    )


def _messages(value: Any) -> bool:
    return isinstance(value, list | tuple) and bool(value) and all(is_message(message) for message in value)


def _plain(message: Any) -> dict[str, str]:
    return {"role": message["role"], "content": message["content"]}


def _common_text(place: str, chosen: str, rejected: str) -> tuple[str, str, str]:
    """The prompt that both texts begin with: up to the last line break or space before they part."""
    same = 0
    for a, b in zip(chosen, rejected, strict=False):
        if a != b:
            break
        same += 1
    cut = max(chosen.rfind(mark, 0, same) for mark in ("\n", " ")) + 1
    if cut == 0:
        raise DataError(f"{place}: no column 'prompt', and the completions begin with nothing in common")
    return chosen[:cut], chosen[cut:], rejected[cut:]
