from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal, cast

import torch
from torch import Tensor

from truegain.core.component import component
from truegain.core.errors import SettingError
from truegain.core.types import Rollout
from truegain.methods.reward._implicit_outcome import implicit_outcome
from truegain.methods.reward._implicit_steps import implicit_steps
from truegain.methods.reward._weakest_step import weakest_step


@component("search", cite=("arXiv:2412.01981", "PRIME-RL/ImplicitPRM eval/prm_eval_utils.py"))
def implicit_best(
    draw: Any, rollouts: Sequence[Rollout], *, by: Literal["step", "prefix", "sum"] = "step"
) -> tuple[list[Rollout], dict[str, float]]:
    """Best of n by a language model's log-ratio to its reference: one completion of each problem is kept.

    ``by`` says what a completion is worth: ``step`` its worst step, ``prefix`` its worst running sum of steps, ``sum``
    all of it. Only the order counts, so there is no beta. A completion without a step (with ``sum``: without a token),
    or with a NaN, loses against every other; of equals the first is kept. The fact ``rm_score`` is its worth in nats,
    None if it has none. Steps are those of the form's segment ``step``.

    Logs ``one``, how often a completion was right, and ``best``, how often the kept one is, over problems whose
    completions were judged. Raises SettingError for an unknown ``by``, WiringError for a form without roles that fill
    ``rm_logp`` and ``rm_ref_logp``. Source: Yuan et al. 2024, section 4.1.

    >>> from types import SimpleNamespace as Some
    >>> from truegain.core.types import Problem
    >>> rows = [Rollout(Problem("a", "q"), (1,), (5, 6), (0.0,) * 2, text, "eos", ()) for text in "xy"]
    >>> step = torch.tensor([[0, 1], [0, 1]])
    >>> says = dict(rm_logp=torch.tensor([[1.0, -0.5], [0.1, 0.1]]), rm_ref_logp=torch.zeros(2, 2))
    >>> found, _ = implicit_best(Some(columns=lambda rollouts: dict(says, step=step, mask=step >= 0)), rows)
    >>> [row.text for row in found]
    ['y']
    """
    if by not in ("step", "prefix", "sum"):
        raise SettingError(f"implicit_best: by={by!r}; it is step, prefix or sum")
    asked = [r for r in rollouts if "abstained" not in r.facts]
    if not asked:
        return [], {}
    worth: list[float] = cast(Any, _worth(draw.columns(asked), by)).tolist()
    best: dict[str, int] = {}
    for n, row in enumerate(asked):
        if row.problem.id not in best or worth[n] > worth[best[row.problem.id]]:
            best[row.problem.id] = n
    told = {n: None if worth[n] == float("-inf") else worth[n] for n in best.values()}
    kept = [replace(asked[n], facts={**asked[n].facts, "rm_score": score}) for n, score in told.items()]
    return kept, {"one": _right(asked), "best": _right(kept)} if all("correct" in r.facts for r in asked) else {}


def _worth(columns: Any, by: str) -> Tensor:
    logp, ref, mask = columns["rm_logp"], columns["rm_ref_logp"], columns["mask"]
    if by == "sum":
        there, worth = mask.any(dim=1), implicit_outcome(logp, ref, mask, beta=1.0)
    else:
        step = columns["step"]
        steps = implicit_steps(logp, ref, step, mask, beta=1.0)["step_reward"]
        there = (mask & (step >= 0)).any(dim=1)
        worth = weakest_step(steps, step, mask, running=by == "prefix")
    return torch.where(there & ~worth.isnan(), worth, torch.full_like(worth, float("-inf")))


def _right(rows: Sequence[Rollout]) -> float:
    """Mean over problems of the share of right completions."""
    by: dict[str, list[float]] = {}
    for row in rows:
        by.setdefault(row.problem.id, []).append(float(row.facts["correct"]))
    return sum(sum(r) / len(r) for r in by.values()) / len(by)
