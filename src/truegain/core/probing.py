"""What the probes share: where they cut a rollout, and the table [B,S] that their numbers go into."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor

from truegain.core import segments
from truegain.core.types import Rollout

CLOSING, OPENING, ENDING = "</think>", "<answer>", "</answer>"
"""How the embedded tasks end a chain of thought, and what stands around an answer."""

Decode = Callable[[Sequence[int]], str]


def reasoning_end(rollout: Rollout, decode: Decode, marks: Sequence[str]) -> int:
    """How many completion tokens come before the first of the marks; all of them when none is written."""
    places = [at for at in (rollout.text.find(mark) for mark in marks if mark) if at >= 0]
    if not places:
        return len(rollout.ids)
    return tokens_before(rollout, decode, min(places))


def tokens_before(rollout: Rollout, decode: Decode, character: int) -> int:
    """How many tokens write nothing at or behind the character. Text grows with tokens, so halving finds it."""
    low, high = 0, len(rollout.ids)
    while low < high:
        middle = (low + high + 1) // 2
        if len(decode(rollout.ids[:middle])) <= character:
            low = middle
        else:
            high = middle - 1
    return low


def step_cuts(
    step: Tensor, rollouts: Sequence[Rollout], decode: Decode, marks: Sequence[str]
) -> list[Mapping[int, int]]:
    """Per row, step number -> tokens up to the step's end, never past the reasoning's end; steps that exist only.

    What a tool answered belongs to the step that called it.
    """
    found: list[Mapping[int, int]] = []
    for ids, rollout in zip(cast("list[list[int]]", cast(Any, step).tolist()), rollouts, strict=True):
        end = reasoning_end(rollout, decode, marks)
        after = _with_answers(rollout.mask)
        found.append({number: min(after[at], end) for at, number in enumerate(ids) if number >= 0})
    return found


def _with_answers(mask: Sequence[bool]) -> list[int]:
    """For each token the place of the next one that the policy chose; the end after the last."""
    places = [len(mask)] * len(mask)
    for at in reversed(range(len(mask) - 1)):
        places[at] = at + 1 if mask[at + 1] else places[at + 1]
    return places


def table_of(cuts: Sequence[Mapping[int, int]], values: Mapping[tuple[int, int], float], step: Tensor) -> Tensor:
    """Numbers by (row, cut) as [B,S]; NaN where a row has no such step."""
    out = torch.full((len(cuts), segments.count(step)), float("nan"))
    for row, places in enumerate(cuts):
        for number, cut in places.items():
            out[row, number] = values[row, cut]
    return out


def places_of(cuts: Sequence[Mapping[int, int]]) -> list[tuple[int, int]]:
    """Every different (row, cut), in order: steps that end at one token are probed once."""
    return [(row, cut) for row, places in enumerate(cuts) for cut in sorted(set(places.values()))]


def mean_or_nan(values: Sequence[float]) -> float:
    """The mean, NaN of nothing."""
    return sum(values) / len(values) if values else float("nan")
