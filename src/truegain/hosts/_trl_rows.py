"""What TRL drew on one process, as our rollouts and columns."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from truegain.core.arithmetic import named_columns
from truegain.core.columns import COLUMNS
from truegain.core.component import call, spec_of
from truegain.core.errors import DataError
from truegain.core.forms import Train, members
from truegain.core.types import Abstain, Problem, Rollout, Turn
from truegain.hosts.offers import BY_FUNCTION
from truegain.rollout.batch import to_columns
from truegain.rollout.segment import own_spans, segmented

ColumnFunction = Callable[..., Sequence[Any]]
Decode = Callable[[Sequence[int]], str]


@dataclass(frozen=True)
class Given:
    """What the user brings: names and weights of the reward functions, and functions that fill columns."""

    names: tuple[str, ...]
    weights: tuple[float, ...]
    functions: Mapping[str, ColumnFunction]

    @property
    def filling(self) -> frozenset[str]:
        """Reward functions that fill the column of their name; the others are summed in ``score``."""
        return frozenset(n for n in self.names if n in BY_FUNCTION - {"score"} and COLUMNS[n].shape == "B")

    @property
    def sums(self) -> bool:
        """Whether there is a reward function to sum."""
        return bool(set(self.names) - self.filling)

    @property
    def columns(self) -> frozenset[str]:
        """Every column that these fill."""
        score = {"score"} if self.sums else set[str]()
        return self.filling | score | frozenset(self.functions)

    def facts(self, rewards: Tensor) -> list[dict[str, Any]]:
        """Per row of ``rewards`` [rows,F], the columns of the reward functions; NaN where they abstained.

        As in TRL, a function that gives None counts for nothing in the row's sum; if all do, the row has none.
        """
        summed = [i for i, name in enumerate(self.names) if name not in self.filling]
        found: list[dict[str, Any]] = []
        for row in rewards.double().tolist():
            facts: dict[str, Any] = {name: row[i] for i, name in enumerate(self.names) if name in self.filling}
            given = [self.weights[i] * row[i] for i in summed if not math.isnan(row[i])]
            if summed:
                facts["score"] = sum(given) if given else math.nan
            found.append(facts)
        return found


@dataclass
class Drawn:
    """One process's rows as TRL shows them to its reward functions.

    ``rewards`` [rows,F] is what these gave; ``rows`` are the numbers of the rows over all processes, ``tool`` [rows,T]
    TRL's mask with 0 on tools' tokens, ``logp`` [rows,T] what the sampler reported, if it did.
    """

    inputs: Sequence[Mapping[str, Any]]
    prompts: Sequence[Any]
    completions: Sequence[Any]
    ids: Sequence[Sequence[int]]
    rewards: Tensor
    rows: Sequence[int]
    keys: Sequence[int]
    truncated: Sequence[bool]
    samples: Any
    tool: Tensor | None = None
    logp: Tensor | None = None

    def rollouts(self, decode: Decode | None) -> list[Rollout]:
        """The rows as rollouts; without ``decode`` their text is empty."""
        found: list[Rollout] = []
        for i, (row, prompt, ids) in enumerate(zip(self.inputs, self.prompts, self.ids, strict=True)):
            asked = prompt if isinstance(prompt, str) else tuple(prompt)
            answer = row.get("answer", row.get("solution"))
            meta = {name: value for name, value in row.items() if name != "prompt"}
            name = str(self.rows[i] // self.samples)
            problem = Problem(name, asked, None if answer is None else str(answer), meta)
            chosen = [1] * len(ids) if self.tool is None else self.tool[i, : len(ids)].tolist()
            said = (0.0,) * len(ids) if self.logp is None else tuple(self.logp[i, : len(ids)].tolist())
            text, stop = decode(ids) if decode else "", "length" if self.truncated[i] else "eos"
            sample = self.rows[i] % self.samples
            found.append(
                Rollout(problem, (), tuple(ids), said, text, stop, _turns(chosen), sample=sample, key=self.keys[i])
            )
        return found


def _turns(chosen: Sequence[int]) -> tuple[Turn, ...]:
    """The spans of policy and tools, in order."""
    borders = [0, *(t for t in range(1, len(chosen)) if chosen[t] != chosen[t - 1]), len(chosen)]
    return tuple(Turn("policy" if chosen[a] else "tool", a, b) for a, b in pairwise(borders))


def columns_of(form: Train, drawn: Drawn, given: Given, decode: Decode) -> tuple[dict[str, Tensor], list[str]]:
    """Every column that TRL's rows give a form before a model is asked, and per row why it abstains, if it does.

    It does if a reward function, a score or a column function that the form needs says nothing of it.
    """
    reads = bool(form.segment or members(form.score) or given.functions)
    rollouts = drawn.rollouts(decode if reads else None)
    found = given.facts(drawn.rewards)
    rollouts = [replace(r, facts=facts) for r, facts in zip(rollouts, found, strict=True)]
    spans = own_spans(rollouts, decode) if reads else []
    width = max(map(len, drawn.ids), default=0)
    wide = torch.zeros(len(rollouts), width, dtype=torch.bool)
    segments = {name: segmented(member, rollouts, spans, wide) for name, member in form.segment.items()}
    rollouts = _scored(form, rollouts)
    steps = _pieces(rollouts, spans, segments.get("step"))
    rollouts = _with_columns(drawn, given, rollouts, steps, counted="step" in segments)
    needed = sorted(n for n in given.columns & named_columns(form) if COLUMNS[n].shape == "B")
    silent = [_silence(r, needed) for r in rollouts]
    columns = to_columns(rollouts) | segments
    columns["group"] = torch.tensor(drawn.rows) // drawn.samples
    columns["role"] = torch.zeros_like(columns["group"])
    return columns, silent


def _scored(form: Train, rollouts: Sequence[Rollout]) -> list[Rollout]:
    """The rollouts with what the form's score components say of their text."""
    out: list[Rollout] = []
    for r in rollouts:
        for member in members(form.score):
            spec = spec_of(member)
            value, _ = call(member, {"problem": r.problem, "rollout": r}, {})
            if isinstance(value, Abstain):
                facts: Mapping[str, Any] = {name: _nothing(name) for name in spec.fills}
                facts = {**facts, "abstained": f"{spec.full_name}: {value.reason}"}
            else:
                facts = value if isinstance(value, Mapping) else {spec.fills[0]: value}
            r = replace(r, facts={**r.facts, **facts})
        out.append(r)
    return out


def _with_columns(
    drawn: Drawn, given: Given, rollouts: Sequence[Rollout], steps: Sequence[Sequence[str]], *, counted: bool
) -> list[Rollout]:
    """The rollouts with what the user's column functions say of them; ``counted`` where the form counts steps.

    Raises DataError for another number of entries than of completions, or of steps in one of them.
    """
    out = list(rollouts)
    names = {name for row in drawn.inputs for name in row} - {"prompt", "completion", "completion_ids"}
    data = {name: [row.get(name) for row in drawn.inputs] for name in sorted(names)}
    for column, function in given.functions.items():
        values = list(
            function(
                prompts=drawn.prompts, completions=drawn.completions, completion_ids=drawn.ids, steps=steps, **data
            )
        )
        if len(values) != len(out):
            raise DataError(f"columns[{column!r}] gave {len(values)} entries for {len(out)} completions: give one each")
        for i, value in enumerate(values):
            if counted and value is not None and COLUMNS[column].shape == "B,S" and len(value) != len(steps[i]):
                raise DataError(
                    f"columns[{column!r}] gave {len(value)} numbers for completion {i} of the batch, which has "
                    f"{len(steps[i])} steps: give one for each entry of `steps`"
                )
            facts = {column: _nothing(column) if value is None else value}
            why = {"abstained": f"columns[{column!r}] gave None"} if value is None else {}
            out[i] = replace(out[i], facts={**out[i].facts, **facts, **why})
    return out


def _nothing(column: str) -> Any:
    return math.nan if COLUMNS[column].shape == "B" else []


def _silence(rollout: Rollout, needed: Sequence[str]) -> str:
    """Why the row cannot be used; an empty string if it can."""
    if "abstained" in rollout.facts:
        return str(rollout.facts["abstained"])
    return next((f"a reward function gave None for {n!r}" for n in needed if math.isnan(rollout.facts[n])), "")


def _pieces(
    rollouts: Sequence[Rollout], spans: Sequence[Sequence[tuple[int, int]]], step: Tensor | None
) -> list[list[str]]:
    """The text of each step of each row; of the whole row where the form counts no steps."""
    if not spans:
        return []
    if step is None:
        return [[r.text] for r in rollouts]
    out: list[list[str]] = []
    for r, own, ids in zip(rollouts, spans, step.tolist(), strict=True):
        ends: dict[int, list[int]] = {}
        for (start, end), number in zip(own, ids, strict=False):
            if number >= 0:
                ends.setdefault(number, [start, end])[1] = end
        out.append([r.text[ends[n][0] : ends[n][1]] if n in ends else "" for n in range(max(ends, default=-1) + 1)])
    return out
