from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from truegain.core import segments
from truegain.core.component import component
from truegain.core.errors import SettingError
from truegain.methods.credit._steps import fitted, standardised, steps_of, to_go


@component("credit", cite=("arXiv:2601.10712", "quchangle1/MatchTIR core_algos.py"))
def turn_returns(
    turn_reward: Float[Tensor, "B U"],
    turn: Int[Tensor, "B T"],
    group: Int[Tensor, "B"],
    mask: Bool[Tensor, "B T"],
    *,
    gamma: float = 0.9,
    after: Literal["none", "group", "batch", "place"] = "place",
    scale: bool = True,
    singleton: Literal["zero", "raw"] = "raw",
    ddof: int = 1,
    eps: float = 1e-6,
) -> Float[Tensor, "B T"]:
    """Rewards of turns, summed to the row's end and standardised among the group's turns at the same place.

    ``R_j = r_j + gamma R_{j+1}`` over the policy's turns; ``A_j = (R_j - mean) / (std + eps)`` over the pool ``after``;
    all policy tokens of turn j get A_j. Turns of a tool have no reward and cost no discount.

    Pools: ``place``, the turns of the group's rows with the same number; ``group``; ``batch``; ``none`` leaves R.
    ``scale=False`` only takes the mean off. ``singleton``: what a turn alone at its place gets: its R, as if the mean
    were 0 and the deviation 1 (as released), or 0. ``gamma`` in [0, 1] per turn.
    Equal numbers of a pool give exactly 0. A NaN at a turn of the policy makes its pool NaN, which the loop refuses.

    Raises SettingError for an unknown word. Source: MatchTIR 2026, the turn-level half of its dual advantage.

    >>> import torch
    >>> rewards = torch.tensor([[1.0, 0.5, 0.8], [0.0, 0.5, 0.2]])
    >>> turn = torch.arange(3).expand(2, 3)
    >>> turn_returns(rewards, turn, torch.zeros(2, dtype=torch.long), turn >= 0)[0].round(decimals=4)
    tensor([0.7071, 0.7071, 0.7071])
    """
    if after not in ("none", "group", "batch", "place") or singleton not in ("zero", "raw"):
        raise SettingError(f"turn_returns: after={after!r}, singleton={singleton!r}; see its docstring for the choices")
    turns = steps_of(turn, mask, turn_reward.dtype, turn_reward.shape[1])
    returns = to_go(fitted(turn_reward, turns), turns, gamma)
    out = standardised(returns, turns, group, after, scale=scale, ddof=ddof, eps=eps)
    if after == "place" and singleton == "raw":
        place = group[:, None] * returns.shape[1] + torch.arange(returns.shape[1], device=group.device)
        ids = torch.where(turns.present, place, -1)
        beside = segments.spread(segments.total(torch.ones_like(returns), ids), ids)
        out = torch.where(beside == 1, returns / (1 + eps), out)
    return turns.to_tokens(out)
