from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

from truegain.core.component import component
from truegain.core.errors import SettingError
from truegain.core.types import Resampled, Rollout


@component("resample", cite="arXiv:2503.14476")
def dynamic_sampling(
    draw: Any,
    rollouts: Sequence[Rollout],
    *,
    metric: Literal["first", "sum"] = "first",
    rounds: int = 10,
    factor: float = 1.0,
    tolerance: float = 1e-6,
) -> Resampled:
    """Drop groups without a signal, and refill from fresh problems until ``draw.prompts`` groups have one.

    A group (the rollouts of one problem) is kept if its ``metric`` spreads by more than ``tolerance``, or if it has one
    rollout. ``metric`` is the form's ``first`` reward, so that what shapes it does not keep a group that is all right
    or all wrong (verl's ``acc``), or the ``sum`` of all (verl's ``seq_reward``). Each round draws ``factor`` times as
    many problems as groups are missing (verl's recipe generates 3 times the batch at once); groups too many are
    dropped, the latest first. After ``rounds`` refills the step trains on what there is (verl raises an error there).

    Raises SettingError for knobs out of bounds (``rounds`` >= 0, ``factor`` >= 1).
    Source: Yu et al. 2025, equation 11 and algorithm 1; verl's recipe/dapo.

    >>> from types import SimpleNamespace
    >>> from truegain.core.types import Problem
    >>> rows = [Rollout(Problem(name, name), (), (), (), "", "eos", ()) for name in "aabb"]
    >>> loop = SimpleNamespace(prompts=2, round=0, fresh=lambda n: rows[:n], rewards=lambda rows, first: [1, 0, 1, 1])
    >>> found = dynamic_sampling(loop, rows)
    >>> found.drop, len(found.add)
    ([2, 3], 1)
    """
    if rounds < 0 or factor < 1:
        raise SettingError(f"dynamic_sampling: rounds={rounds} must be 0 or more, factor={factor} 1 or more")
    values = draw.rewards(rollouts, first=metric == "first")
    groups: dict[str, list[int]] = {}
    for i, rollout in enumerate(rollouts):
        groups.setdefault(rollout.problem.id, []).append(i)
    live = [rows for rows in groups.values() if len(rows) == 1 or _spread(values, rows) > tolerance]
    kept = {i for rows in live[: draw.prompts] for i in rows}
    drop = [i for i in range(len(rollouts)) if i not in kept]
    missing = draw.prompts - len(live)
    if missing <= 0 or draw.round >= rounds:
        return Resampled(drop=drop)
    return Resampled(add=draw.fresh(math.ceil(missing * factor)), drop=drop)


def _spread(values: Sequence[float], rows: Sequence[int]) -> float:
    found = [values[i] for i in rows]
    return max(found) - min(found)
