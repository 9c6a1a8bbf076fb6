"""Which rows run together: requests sorted so that trunks are shared and little is padded, cut to bound the memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from truegain.core.errors import DataError
from truegain.core.types import Request


@dataclass(frozen=True)
class Plan:
    """B rows over N different trunks: row b is given ``trunks[of[b]][:cut[b]]`` and then ``suffixes[b]``.

    ``index[b]`` is the place of the row's request in the caller's list.
    """

    index: tuple[int, ...]
    keys: tuple[int, ...]
    trunks: tuple[tuple[int, ...], ...]
    of: tuple[int, ...]
    cut: tuple[int, ...]
    suffixes: tuple[tuple[int, ...], ...]

    def given(self, row: int) -> tuple[int, ...]:
        """All tokens before the first drawn one."""
        return self.trunks[self.of[row]][: self.cut[row]] + self.suffixes[row]


def check(requests: Sequence[Request], vocabulary: int, *, scored: bool = False) -> None:
    """Raise DataError for a request that no model can continue, or whose first suffix token it cannot score."""
    for number, request in enumerate(requests):
        where = f"request {number}"
        if request.cut is not None and not 0 <= request.cut <= len(request.trunk):
            raise DataError(f"{where}: cut {request.cut} is outside its trunk of {len(request.trunk)} tokens")
        if not request.trunk[: request.cut] and not request.suffix:
            raise DataError(f"{where}: nothing is given; begin it with one token at least")
        if scored and request.suffix and not request.trunk[: request.cut]:
            raise DataError(f"{where}: its first suffix token has nothing to stand on; give a token before it")
        if not -(2**63) <= request.key < 2**63:
            raise DataError(f"{where}: key {request.key} does not fit 64 bits; make keys with core.draws.draw_key")
    for ids in {request.trunk for request in requests} | {request.suffix for request in requests}:
        if ids and not 0 <= min(ids) <= max(ids) < vocabulary:
            raise DataError(f"a request holds token id {max(ids)}; the model's ids are 0 to {vocabulary - 1}")


def plans(requests: Sequence[Request], cost: Callable[[int, int, int, int], int], limit: int) -> Iterator[Plan]:
    """Cut the requests into plans that cost at most ``limit`` each (a single row may cost more).

    ``cost(rows, trunks, longest trunk, longest suffix)`` says what a plan would cost.
    """
    first = {request.trunk: place for place, request in reversed(list(enumerate(requests)))}

    def rank(place: int) -> tuple[int, int, int, int]:
        request = requests[place]
        return len(request.trunk), first[request.trunk], len(request.suffix), place

    chosen: list[int] = []
    trunks: set[tuple[int, ...]] = set()
    suffix = 0
    for place in sorted(range(len(requests)), key=rank):
        request = requests[place]
        wider = max(suffix, len(request.suffix))
        more = len(trunks) + (request.trunk not in trunks)
        if chosen and cost(len(chosen) + 1, more, len(request.trunk), wider) > limit:
            yield _plan(requests, chosen)
            chosen, trunks, wider = [], set(), len(request.suffix)
        chosen.append(place)
        trunks.add(request.trunk)
        suffix = wider
    if chosen:
        yield _plan(requests, chosen)


def _plan(requests: Sequence[Request], chosen: list[int]) -> Plan:
    rows = [requests[place] for place in chosen]
    number: dict[tuple[int, ...], int] = {}
    of = [number.setdefault(row.trunk, len(number)) for row in rows]
    return Plan(
        index=tuple(chosen),
        keys=tuple(row.key for row in rows),
        trunks=tuple(number),
        of=tuple(of),
        cut=tuple(len(row.trunk) if row.cut is None else row.cut for row in rows),
        suffixes=tuple(row.suffix for row in rows),
    )


def padded(rows: Sequence[Sequence[int]], device: torch.device, fill: int = 0) -> Tensor:
    """Right-padded token ids [N, L], L at least 1."""
    width = max((len(row) for row in rows), default=0) or 1
    return torch.tensor([[*row, *[fill] * (width - len(row))] for row in rows], dtype=torch.long, device=device)
