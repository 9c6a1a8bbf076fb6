"""Drawing tokens: the one loop of all engines. A decoder says what a model makes of the tokens it is given."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol

import torch
from torch import Tensor

from truegain.core.draws import uniforms
from truegain.core.errors import RunError
from truegain.core.types import Sample, Sampling, Stop
from truegain.policy.decoder import Steer
from truegain.rollout.plan import Plan
from truegain.rollout.sampler import draw
from truegain.rollout.steering import Samplers
from truegain.rollout.stops import StopWatch

# Rows that have ended keep their place until this share of the rows is left: leaving costs a copy of the cache, and on
# a card that the step is recorded anew
COMPACT_AT = {"cpu": 0.75, "cuda": 0.5}
_REASONS: tuple[Stop, ...] = ("length", "eos", "stop")


class Decoder(Protocol):
    """A model that reads a plan, then one token per row at a time. The state is the decoder's own affair."""

    device: torch.device
    vocabulary: int

    @property
    def blocks(self) -> int:
        """How many blocks can be steered; 0 for a model that has no hidden states."""
        ...

    def start(self, plan: Plan, room: int) -> tuple[Any, Tensor]:
        """Read what the plan gives, with room for so many further tokens; the state and logits [B, V]."""
        ...

    def step(self, state: Any, tokens: Tensor, steer: Steer | None = None) -> Tensor:
        """Read tokens [B], one per row; logits [B, V]. Changes the state. ``steer`` changes what the blocks hand on."""
        ...

    def select(self, state: Any, rows: Tensor) -> Any:
        """The state of some rows, in ascending order. The old state is not used again."""
        ...


def draw_rows(
    decoder: Decoder,
    plan: Plan,
    sampling: Sampling,
    eos: Iterable[int],
    watch: StopWatch | None,
    samplers: Samplers | None = None,
) -> list[Sample]:
    """Continue every row of a plan until it ends. Raises RunError when the model gives NaN.

    ``samplers`` change the logits before each draw and the hidden states of each drawn token as it is read.
    """
    rows, room, device = len(plan.index), sampling.max_tokens, decoder.device
    if room == 0:
        return [Sample((), (), "length")] * rows
    ends = torch.tensor(sorted(eos), dtype=torch.long, device=device)
    chance = uniforms(torch.tensor(plan.keys, device=device)[:, None], torch.arange(room, device=device)).T.contiguous()
    ids = torch.zeros((rows, room), dtype=torch.long, device=device)
    logp = torch.zeros((rows, room), device=device)
    length = torch.full((rows,), room, device=device)
    why = torch.zeros_like(length)  # place in _REASONS
    live = torch.arange(rows, device=device)  # the row behind each line of the decoder's state
    going = torch.ones(rows, dtype=torch.bool, device=device)
    state, logits = decoder.start(plan, room)
    for t in range(room):
        if samplers is not None:
            logits = samplers.logits(logits, ids[live, :t])
        tokens, chosen = draw(logits, chance[t], sampling)
        ids[live, t], logp[live, t] = tokens, chosen
        ended = _reasons(tokens, going, ends, watch, ids, live, t)
        over = live[ended > 0]
        length[over], why[over] = t + 1, ended[ended > 0]
        going &= ended == 0
        left = int(going.sum())
        if left == 0 or t + 1 == room:
            break
        if left <= COMPACT_AT.get(device.type, 0.75) * len(going):
            keep = going.nonzero()[:, 0]
            state = decoder.select(state, keep)
            live, tokens, chance, going = live[keep], tokens[keep], chance[:, keep], going[keep]
            logits = logits[keep]
            if samplers is not None:
                samplers.select(keep)
        logits = decoder.step(state, tokens, None if samplers is None else samplers.steer(tokens, logits))
    return _samples(ids, logp, length, why)


def _reasons(
    tokens: Tensor, going: Tensor, ends: Tensor, watch: StopWatch | None, ids: Tensor, live: Tensor, t: int
) -> Tensor:
    """Why each line ends with the token just drawn, as a place in `_REASONS`; 0 if it goes on, or had ended before."""
    ended = (torch.isin(tokens, ends) & going).long()
    if watch is not None:
        check = (going & (ended == 0)).nonzero()[:, 0]

        def drawn(line: int, count: int) -> list[int]:
            return ids[live[check[line]], max(0, t + 1 - count) : t + 1].tolist()

        ended[check[watch.ended(tokens[check], drawn)]] = 2
    return ended


def _samples(ids: Tensor, logp: Tensor, length: Tensor, why: Tensor) -> list[Sample]:
    drawn, chosen, reasons = ids.tolist(), logp.tolist(), why.tolist()
    samples = []
    for row, count in enumerate(length.tolist()):
        values = tuple(chosen[row][:count])
        if any(value != value for value in values):
            raise RunError("the model gives NaN logits, so no token can be drawn: its weights are damaged or diverged")
        samples.append(Sample(tuple(drawn[row][:count]), values, _REASONS[reasons[row]]))
    return samples
