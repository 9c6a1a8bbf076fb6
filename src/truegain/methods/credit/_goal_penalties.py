from __future__ import annotations

from typing import Literal, cast

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from truegain.core.component import component
from truegain.core.errors import SettingError
from truegain.methods.credit._by_tags import ACTION, GOAL, SWITCH
from truegain.methods.credit._steps import steps_of


@component("probe", cite=("arXiv:2602.16165", "JonP07/HiPER-agent"), fills="turn_reward")
def goal_penalties(
    tokens: Int[Tensor, "B T"],
    turn: Int[Tensor, "B T"],
    part: Int[Tensor, "B T"],
    mask: Bool[Tensor, "B T"],
    *,
    keep: float = 0.3,
    per: Literal["turn", "share"] = "share",
    changed: float = 0.3,
    invalid: float = 0.1,
) -> dict[str, Tensor]:
    """What a turn with subgoals costs beside the outcome: ``turn_reward`` [B,U], at most 0; NaN where there is no turn.

    ``keep``: for each turn after the first that keeps the subgoal, or, with ``per="share"``, for the row's share of
    such turns, spread over them. ``changed``: for a turn that keeps it and writes another subgoal than the turn before
    that wrote one. ``invalid``: for a turn without a readable decision or action, as `by_tags` numbers the parts: one
    whose tokens are all action. All in units of reward, 0 or more. Raises SettingError otherwise.

    >>> import torch
    >>> part = torch.tensor([[1, 2, 3, 0, 2, 3]])
    >>> turn, words = torch.tensor([[0, 0, 0, 1, 1, 1]]), torch.tensor([[9, 5, 1, 8, 6, 1]])
    >>> goal_penalties(words, turn, part, part >= 0, per="turn")["turn_reward"]
    tensor([[ 0.0000, -0.6000]])
    """
    if min(keep, changed, invalid) < 0 or per not in ("turn", "share"):
        raise SettingError(f"goal_penalties: keep={keep}, changed={changed}, invalid={invalid}, per={per!r}")
    turns = steps_of(turn, mask, torch.float32)
    out = torch.full(turns.present.shape, float("nan"), device=turn.device)
    columns = [cast("list[list[int]]", c.tolist()) for c in (tokens, turn, part, mask)]  # pyright: ignore[reportUnknownMemberType]
    for i, (words, at, parts, own) in enumerate(zip(*columns, strict=True)):
        wrote = [(w, u, p) for w, u, p, mine in zip(words, at, parts, own, strict=True) if mine]
        there = sorted({u for _, u, _ in wrote if u >= 0})
        kept = [u for u in there[1:] if not any(v == u and p == SWITCH for _, v, p in wrote)]
        goal: list[int] = []
        for u in there:
            said = [w for w, v, p in wrote if v == u and p == GOAL]
            cost = keep / (len(there) if per == "share" else 1) if u in kept else 0.0
            cost += changed if u in kept and said and goal and said != goal else 0.0
            cost += invalid if all(p == ACTION for _, v, p in wrote if v == u) else 0.0
            out[i, u] = 0.0 - cost
            goal = said or goal
    return {"turn_reward": out}
