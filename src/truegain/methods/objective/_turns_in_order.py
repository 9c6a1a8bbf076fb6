from __future__ import annotations

from typing import Literal, cast

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from truegain.core.component import component
from truegain.core.errors import SettingError


@component("plan", cite=("arXiv:2602.06554", "arXiv:2109.11251"), renew=True)
def turns_in_order(
    turn: Int[Tensor, "B T"],
    mask: Bool[Tensor, "B T"],
    *,
    order: Literal["reverse", "forward", "random"] = "reverse",
    step_index: int,
) -> Bool[Tensor, "N B T"]:
    """One optimiser step per turn, each against the policy that the step before left: the turns as agents in a team.

    Part n holds the policy's tokens of one turn, of every row that has it; the loop computes ``old_logp`` anew between
    parts, and ``shift`` tells how far each part moved its rows. ``order``: from the last turn to the first, from the
    first to the last, or drawn anew each step (from ``step_index``, so that a resumed run draws the same). Turns are
    counted from the start of a row; a number without any token of the policy, as a tool's turn, makes no part.
    All-masked: no part. Raises SettingError for an unknown ``order``.

    Source: Hu et al. 2026 (SeeUPO); Kuba et al. 2022 (HAPPO) for agents that are updated one after another.

    >>> import torch
    >>> turn = torch.tensor([[0, 1, 2], [0, 0, -1]])
    >>> mask = torch.tensor([[True, False, True], [True, True, False]])
    >>> turns_in_order(turn, mask, step_index=0).int().tolist()
    [[[0, 0, 1], [0, 0, 0]], [[1, 0, 0], [1, 1, 0]]]
    """
    if order not in ("reverse", "forward", "random"):
        raise SettingError(f"turns_in_order: order={order!r}; it is reverse, forward or random")
    ids = torch.where(mask, turn, -1)
    numbers = cast(Tensor, torch.unique(ids[ids >= 0]))  # pyright: ignore[reportUnknownMemberType]
    if order == "reverse":
        numbers = numbers.flip(0)
    elif order == "random":
        shuffled = torch.randperm(len(numbers), generator=torch.Generator().manual_seed(step_index))
        numbers = numbers[shuffled.to(numbers.device)]
    return ids[None] == numbers[:, None, None]
