from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

from torch import Tensor

from truegain.core.component import component
from truegain.core.errors import SettingError
from truegain.core.probing import mean_or_nan, step_cuts
from truegain.core.types import Rollout


@component("search", cite="arXiv:2312.08935")
def label_steps(
    roles: Mapping[str, Any], draw: Any, rollouts: Sequence[Rollout], *, samples: int = 8
) -> tuple[list[Rollout], dict[str, float]]:
    """Label every step by how often the policy is right when it goes on from the step's end.

    Facts put into each rollout: ``step_reward``, the share of right answers among ``samples`` completions of the
    prefix that ends with step s, a number per step; ``step``, the step of each token, -1 outside. After the last token
    the share is the rollout's own verdict. A step whose completions were all left without a verdict has none (None).
    Steps are those of the form's segment ``step``. Rollouts without a step are dropped. Cost: (steps - 1) * samples
    completions per rollout. Logs the mean label.

    Raises SettingError for fewer than one sample, WiringError for a form without the segment ``step``.
    Source: Wang et al. 2024 (Math-Shepherd), soft estimation.

    >>> from types import SimpleNamespace as Some
    >>> import torch
    >>> from truegain.core.types import Problem, Turn
    >>> said, right = (Turn("policy", 0, 2),), {"correct": 1.0}
    >>> row = Rollout(Problem("a", "q"), (1,), (5, 6), (0.0,) * 2, "xy", "eos", said, facts=right)
    >>> tried = [Some(facts={"correct": c}) for c in (0.0, 1.0)]
    >>> loop = Some(segments=lambda rows, name: torch.tensor([[0, 1]]), fork=lambda places, n: tried)
    >>> label_steps({"policy": Some(policy=Some(decode=len))}, loop, [row], samples=2)[0][0].facts["step_reward"]
    [0.5, 1.0]
    """
    if samples < 1:
        raise SettingError(f"label_steps: samples={samples} must be 1 or more")
    judged = [r for r in rollouts if "correct" in r.facts and r.ids]
    if not judged:
        return [], {}
    step: Tensor = draw.segments(judged, "step")
    cuts = step_cuts(step, judged, roles["policy"].policy.decode, ())
    places = sorted({(row, cut) for row, steps in enumerate(cuts) for cut in steps.values()})
    going = [(row, cut) for row, cut in places if cut < len(judged[row].ids)]
    drawn = draw.fork([(judged[row], cut) for row, cut in going], samples)
    value = {(row, cut): float(judged[row].facts["correct"]) for row, cut in places}
    for n, place in enumerate(going):
        tried = drawn[n * samples : (n + 1) * samples]
        value[place] = mean_or_nan([float(r.facts["correct"]) for r in tried if "correct" in r.facts])
    found: list[Rollout] = []
    ids = cast("list[list[int]]", cast(Any, step).tolist())
    for row, rollout in enumerate(judged):
        if not cuts[row]:
            continue
        labels: list[float | None] = [None] * (max(cuts[row]) + 1)
        for number, cut in cuts[row].items():
            labels[number] = None if math.isnan(value[row, cut]) else value[row, cut]
        facts = {"step_reward": labels, "step": ids[row][: len(rollout.ids)]}
        found.append(replace(rollout, facts={**rollout.facts, **facts}))
    known = [x for r in found for x in r.facts["step_reward"] if x is not None]
    return found, {"label": sum(known) / len(known)} if known else {}
