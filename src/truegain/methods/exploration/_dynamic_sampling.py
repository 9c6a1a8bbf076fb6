from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from truegain.core.component import component
from truegain.core.errors import SettingError
from truegain.core.types import Resampled, Rollout


@component("resample", cite="arXiv:2503.14476")
def dynamic_sampling(
    draw: Any,
    rollouts: Sequence[Rollout],
    *,
    metric: str = "reward",
    rounds: int = 10,
    factor: float = 1.0,
    tolerance: float = 1e-6,
) -> Resampled:
    """Drop groups without a signal, and refill from fresh problems until ``draw.prompts`` groups have one.

    A group (the rollouts of one problem) is kept if its ``metric`` spreads by more than ``tolerance``, or if it has one
    rollout. ``metric`` is ``reward``, the form's whole reward, or the name of a fact such as ``correct``, so that a
    shaped reward does not keep a group that is all right or all wrong. Each round draws ``factor`` times as many
    problems as groups are missing (verl's recipe generates 3 times the batch at once); groups too many are dropped,
    the latest first. After ``rounds`` refills the step trains on what there is (verl raises an error there).

    Raises SettingError for a metric that the rollouts do not have, or knobs out of bounds (``rounds`` >= 0,
    ``factor`` >= 1). Source: Yu et al. 2025, equation 11 and algorithm 1; verl's recipe/dapo.

    >>> from types import SimpleNamespace as Fake
    >>> def row(problem, right):
    ...     return Fake(problem=Fake(id=problem), facts={"correct": right})
    >>> loop = Fake(prompts=2, round=0, fresh=lambda count: [f"{count} fresh"])
    >>> found = dynamic_sampling(loop, [row("a", 1), row("a", 0), row("b", 1), row("b", 1)], metric="correct")
    >>> found.drop, found.add
    ([2, 3], ['1 fresh'])
    """
    if rounds < 0 or factor < 1:
        raise SettingError(f"dynamic_sampling: rounds={rounds} must be 0 or more, factor={factor} 1 or more")
    values = draw.rewards(rollouts) if metric == "reward" else [_fact(rollout, metric) for rollout in rollouts]
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


def _fact(rollout: Rollout, name: str) -> float:
    if name not in rollout.facts:
        has = ", ".join(sorted(rollout.facts)) or "none"
        raise SettingError(f"dynamic_sampling: metric {name!r} is no fact of the rollouts ({has}), nor 'reward'")
    return float(rollout.facts[name])


def _spread(values: Sequence[float], rows: Sequence[int]) -> float:
    found = [values[i] for i in rows]
    return max(found) - min(found)
