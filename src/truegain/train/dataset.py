"""Data sets between forms: ``dataset.jsonl`` in TRL's column names, with the token ids that were drawn beside the text.

A row has ``prompt`` and either ``completion``, or ``chosen`` and ``rejected``; then the problem's ``id`` and
``answer``, and what was found out about it, by the names of facts. ``prompt_ids``, ``completion_ids`` and
``completion_mask`` keep the tokens as they were drawn, as text may be cut into tokens in other ways.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from truegain.core.errors import DataError, WiringError
from truegain.core.types import Pair, Problem, Rollout, Tree
from truegain.policy.policy import Policy
from truegain.train.folder import plain, read_lines, write_atomic
from truegain.train.offline import Example
from truegain.train.order import in_order
from truegain.train.pairs import PAIR_IDS
from truegain.train.tiny import demonstration_example

NAME = "dataset.jsonl"
Found = Rollout | Pair


def found_by(search: str, answer: Any) -> list[Found]:
    """What a search gave, as a list. Raises WiringError naming ``search`` if it is neither a tree nor such a list."""
    listed: Any = answer.rollouts() if isinstance(answer, Tree) else answer
    if not isinstance(listed, list | tuple) or not all(isinstance(one, Rollout | Pair) for one in listed):
        raise WiringError(f"{search} must return a Tree, or a list of rollouts and pairs, not {type(answer).__name__}")
    return list(listed)


def row_of(policy: Policy, found: Found) -> dict[str, Any]:
    """A rollout or a pair as a row."""
    if isinstance(found, Pair):
        row = {**found.meta, "prompt": found.prompt, "id": found.id}
        return plain({**row, "chosen": found.chosen, "rejected": found.rejected}, found.id)
    ids, problem = list(found.ids), found.problem
    row = {**found.facts, "prompt": problem.prompt, "id": problem.id, "answer": problem.answer}
    row["completion"] = policy.decode(ids[:-1] if ids and ids[-1] in policy.eos_ids else ids)
    row |= {"prompt_ids": found.trained_prompt, "completion_ids": ids, "completion_mask": list(map(int, found.mask))}
    return plain(row, problem.id)


def write_dataset(file: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write all rows or nothing. Raises RunError when the disk is full."""
    write_atomic(file, "".join(json.dumps(row, allow_nan=False) + "\n" for row in rows))


def read_dataset(file: Path, *columns: str) -> list[dict[str, Any]]:
    """The rows of a data set; TRL's ``label`` of a completion is its ``correct``, where there is none.

    Raises DataError if there are no rows, or one lacks one of the ``columns``.
    """
    rows = read_lines(file)
    if not rows:
        raise DataError(f"{file} has no rows to learn from: give the form that writes it more steps or other problems")
    for number, row in enumerate(rows, 1):
        if isinstance(row.get("label"), bool):
            row.setdefault("correct", float(row["label"]))
        for name in columns:
            if name not in row:
                raise DataError(f"{file} line {number} has no {name!r}; it has {', '.join(row)}")
    return rows


def example_of(policy: Policy, row: Mapping[str, Any], room: int | None = None) -> Example:
    """A row's completion to learn: the tokens that were drawn, where it has them.

    Else the text, with the end mark, and without what a tool wrote in the loss. What is longer than ``room`` tokens
    with its prompt loses its end. Raises DataError when the prompt leaves no room at all.
    """
    ids = row.get("completion_ids")
    prompt: Any = row["prompt"] if isinstance(row["prompt"], str) else tuple(row["prompt"])
    if ids is None or "prompt_ids" not in row:
        return demonstration_example(policy, Problem(str(row.get("id", "")), prompt), row["completion"], room)
    given, mask = tuple(row["prompt_ids"]), row.get("completion_mask", [1] * len(ids))
    left = len(ids) if room is None else room - len(given)
    if left < 1:
        raise DataError(
            f"problem {row.get('id')}: its prompt has {len(given)} tokens, the model reads {room}; shorten it"
        )
    return Example(given, tuple(ids[:left]), tuple(bool(m) for m in mask[:left]))


def pair_of(row: Mapping[str, Any]) -> Pair:
    """A row as a pair, with the tokens that were drawn where it has them."""
    prompt: Any = row["prompt"] if isinstance(row["prompt"], str) else tuple(row["prompt"])
    drawn = {name: row[name] for name in PAIR_IDS if name in row}
    return Pair(str(row.get("id", "")), prompt, row["chosen"], row["rejected"], drawn)


def examples_of(
    policy: Policy,
    rows: Sequence[Mapping[str, Any]],
    seed: int,
    edited: Callable[[str, int], str] | None = None,
) -> Callable[[int], Example]:
    """The index-th example of a fit on the rows' completions, a pure function of (seed, index).

    ``edited(text, index)`` makes another text of it, whose tokens are then those of the text.
    """
    place, room = in_order(len(rows), seed), getattr(policy.model.config, "max_position_embeddings", None)

    def example(index: int) -> Example:
        row = rows[place(index)]
        if edited is not None:
            row = {**row, "completion": edited(row["completion"], index), "completion_ids": None}
        return example_of(policy, row, room=room)

    return example
