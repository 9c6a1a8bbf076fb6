from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from truegain.core.component import component
from truegain.core.errors import SettingError
from truegain.methods.credit._hierarchical_advantage import LEVELS, Level, beginning, reading_places
from truegain.methods.credit._steps import steps_of


@component("weight", cite=("arXiv:2602.16165", "JonP07/HiPER-agent core_hae.py"))
def level_mean(
    turn: Int[Tensor, "B T"], part: Int[Tensor, "B T"], mask: Bool[Tensor, "B T"], *, level: Level = "action"
) -> Float[Tensor, "B T"]:
    """The mean over the places where a critic of `hierarchical_advantage` is read, one a turn; 0 elsewhere.

    The critic of subgoals is read in the turns that begin a segment: the first one, and those that switch.
    All-masked: zeros. Raises SettingError for an unknown level.

    >>> import torch
    >>> part, turn = torch.tensor([[1, 3, 3, 0, 3]]), torch.tensor([[0, 0, 0, 1, 1]])
    >>> level_mean(turn, part, part >= 0), level_mean(turn, part, part >= 0, level="goal")
    (tensor([[0.0000, 0.5000, 0.0000, 0.0000, 0.5000]]), tensor([[1., 0., 0., 0., 0.]]))
    """
    if level not in LEVELS:
        raise SettingError(f"level_mean: level={level!r}; it is {', '.join(LEVELS)}")
    turns = steps_of(turn, mask, torch.float32)
    chosen = reading_places(turns, part, level)
    if level == "goal":
        chosen = chosen & (turns.to_tokens(beginning(turns, part).float()) > 0)
    return chosen.float() / chosen.sum().clamp(min=1)
