from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from truegain.core.component import component
from truegain.core.draws import draw_key
from truegain.core.errors import SettingError
from truegain.core.types import Abstain, Rollout


@component("probe", cite="arXiv:2510.00915", fills="appeal")
def appeals(
    draw: Any, rollouts: Sequence[Rollout], score: Float[Tensor, "B"], *, share: float = 0.25, judge: str = "task"
) -> tuple[dict[str, Tensor], dict[str, float]]:
    """A second verifier looks again at some of the answers that the first one rejected (score below 0.5).

    Fills ``appeal[B]``: 1 where it calls the answer right (0.5 or more), 0 where wrong, NaN where it was not asked or
    abstained. Each rejected row is asked about with chance ``share`` in [0, 1], by its key. ``judge`` is ``task``, the
    task's own exact one, or a model, ``openai:MODEL@URL``. The verdicts themselves stay: what is learned is the rate
    (`false_reject_rate`). Logs how many were asked and the share of abstentions. Raises SettingError for another share.

    >>> from types import SimpleNamespace
    >>> from truegain.core.types import Problem
    >>> rows = [Rollout(Problem("a", "a"), (), (), (), "x", "eos", (), key=k) for k in range(3)]
    >>> said = SimpleNamespace(outcomes=lambda rows: [1.0, Abstain("no answer")])
    >>> appeals(SimpleNamespace(judge=lambda spec: said), rows, torch.tensor([0.0, 1.0, 0.0]), share=1.0)[0]["appeal"]
    tensor([1., nan, nan])
    """
    if not 0 <= share <= 1:
        raise SettingError(f"appeals: share={share} must lie in [0, 1]")
    chosen = [n for n, row in enumerate(rollouts) if float(score[n]) < 0.5 and _chance(row) < share]
    found: Sequence[float | Abstain] = draw.judge(judge).outcomes([rollouts[n] for n in chosen]) if chosen else ()
    out = torch.full_like(score, float("nan"))
    for n, value in zip(chosen, found, strict=True):
        out[n] = float("nan") if isinstance(value, Abstain) else float(value >= 0.5)
    abstained = sum(isinstance(value, Abstain) for value in found)
    logs = {"truegain/appeals": float(len(chosen)), "truegain/appeals_abstained": abstained / max(len(chosen), 1)}
    return {"appeal": out}, logs


def _chance(row: Rollout) -> float:
    return (draw_key(row.key, "verifier.appeals", 0, row.problem.id, 0, 0) % 2**32) / 2**32
