from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from truegain.core.component import component
from truegain.core.errors import SettingError
from truegain.core.types import Resampled, Rollout


@component("resample", cite=("arXiv:2509.25827", "github.com/pixas/DECS"))
def dosed_sampling(
    draw: Any, rollouts: Sequence[Rollout], *, kappa: float = 0.0, rounds: int = 10, tolerance: float = 1e-6
) -> Resampled:
    """Dynamic sampling with a dose of solved problems: all-wrong groups go, all-right ones are a share of the batch.

    A group (the rollouts of one problem) is mixed if its first reward spreads by more than ``tolerance``, easy if it
    does not and is above 0, else hopeless. Beside m mixed groups at most ``floor(kappa m / (1 - kappa))`` easy ones are
    kept, the earliest first, so that they are no more than ``kappa`` of the batch; none while ``kappa`` <= 0.
    Refills from fresh problems until ``draw.prompts`` groups are there, or ``rounds`` times; then the step trains on
    what there is, which may be nothing. A group of one rollout is mixed. A `prefix_controller` may set ``kappa``.

    Raises SettingError for ``kappa`` of 1 or more, or ``rounds`` below 0.
    Source: Jiang et al. 2025 (DECS), its curriculum.

    >>> from types import SimpleNamespace
    >>> from truegain.core.types import Problem
    >>> rows = [Rollout(Problem(name, name), (), (), (), "", "eos", ()) for name in "aabbccdd"]
    >>> given = [1, 0, 1, 1, 0, 0, 1, 0]
    >>> loop = SimpleNamespace(prompts=3, round=10, rewards=lambda rows, first: given)
    >>> dosed_sampling(loop, rows).drop, dosed_sampling(loop, rows, kappa=0.4).drop
    ([2, 3, 4, 5], [4, 5])
    """
    if not kappa < 1 or rounds < 0:
        raise SettingError(f"dosed_sampling: kappa={kappa} must be below 1, rounds={rounds} 0 or more")
    values = draw.rewards(rollouts, first=True)
    groups: dict[str, list[int]] = {}
    for i, rollout in enumerate(rollouts):
        groups.setdefault(rollout.problem.id, []).append(i)
    mixed: list[list[int]] = []
    easy: list[list[int]] = []
    for rows in groups.values():
        found = [values[i] for i in rows]
        if len(rows) == 1 or max(found) - min(found) > tolerance:
            mixed.append(rows)
        elif min(found) > 0:
            easy.append(rows)
    many = min(len(mixed), draw.prompts)
    while many and many + _dose(kappa, many, len(easy)) > draw.prompts:
        many -= 1
    some = _dose(kappa, many, len(easy))
    kept = {i for rows in (*mixed[:many], *easy[:some]) for i in rows}
    drop = [i for i in range(len(rollouts)) if i not in kept]
    missing = draw.prompts - many - some
    if missing <= 0 or draw.round >= rounds:
        return Resampled(drop=drop)
    return Resampled(add=draw.fresh(missing), drop=drop)


def _dose(kappa: float, mixed: int, easy: int) -> int:
    """How many easy groups go beside so many mixed ones."""
    return min(easy, math.floor(kappa * mixed / (1 - kappa) + 1e-9)) if kappa > 0 else 0
