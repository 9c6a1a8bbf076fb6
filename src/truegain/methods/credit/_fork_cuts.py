from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from truegain.core.component import component
from truegain.core.types import Rollout


@component("probe", cite=("truegain", "arXiv:2601.03715", "arXiv:2505.07686"), fills="cut")
def fork_cuts(rollouts: Sequence[Rollout], *, parents: bool = True) -> dict[str, Tensor]:
    """Where rows were forked: fills ``cut[B]``, for a fork and for the row it was forked from; -1 for all others.

    ``cut`` counts the completion tokens that the two share. A row with several forks gets the earliest one's;
    ``parents=False`` leaves the rows that others were forked from at -1. A fork whose parent is not among the rows
    keeps its own.

    >>> from truegain.core.types import Problem
    >>> base = Rollout(Problem("a", "a"), (), (1, 2, 3), (0.0,) * 3, "", "eos", (), key=7)
    >>> from dataclasses import replace
    >>> fork_cuts([base, replace(base, key=8, parent="7", cut=2), replace(base, key=9)])["cut"]
    tensor([ 2,  2, -1])
    """
    found: dict[str, int] = {}
    for rollout in rollouts if parents else ():
        if rollout.parent is not None and rollout.cut is not None:
            found[rollout.parent] = min(rollout.cut, found.get(rollout.parent, rollout.cut))
    own = [r.cut if r.parent is not None and r.cut is not None else found.get(str(r.key), -1) for r in rollouts]
    return {"cut": torch.tensor(own, dtype=torch.long)}
