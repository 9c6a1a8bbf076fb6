from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from truegain.core import segments
from truegain.core.component import component
from truegain.core.errors import SettingError


@component("reward", cite="arXiv:2511.09158")
def conciseness_bonus(
    reward: Float[Tensor, "B"],
    conciseness: Float[Tensor, "B"],
    correct: Float[Tensor, "B"],
    group: Int[Tensor, "B"],
    *,
    alpha: float = 0.5,
    easy: Literal["more", "less", "same"] = "more",
    anneal: float = 1.0,
    progress: float,
) -> Float[Tensor, "B"]:
    """Conciseness multiplies what a right answer earned, and a wrong one has nothing of it: a modifier.

    ``o * (1 + alpha * c * (s + d))`` for a reward so far o above 0, else o. c is the row's ``conciseness``, clipped to
    [0, 1]; s = 1 - anneal * progress falls over the run; d belongs to the problem: the group's accuracy
    (``easy="more"``: what is solved is pushed harder), 1 less it (``"less"``), or 0. Added instead, as ``o + alpha c``,
    the score pays short wrong answers too, and length collapses.

    ``alpha`` >= 0; ``anneal`` in [0, 1], 0 keeps s at 1. The source's forms of s and d and its alpha are not known to
    us. A NaN score makes a right row NaN, which the loop refuses, and leaves a wrong one alone. Raises SettingError for
    knobs out of bounds. Source: Wang et al. 2025 (CRF), its reward.

    >>> import torch
    >>> earned, group = torch.tensor([1.0, 1.0, 0.0]), torch.tensor([0, 0, 0])
    >>> conciseness_bonus(earned, torch.tensor([1.0, 0.4, 0.9]), earned, group, easy="same", progress=0.25)
    tensor([1.3750, 1.1500, 0.0000])
    """
    if alpha < 0 or not 0 <= anneal <= 1:
        raise SettingError(f"conciseness_bonus: alpha={alpha} must be 0 or more, anneal={anneal} from 0 to 1")
    solved = segments.spread(segments.mean(correct, group), group)
    push = solved if easy == "more" else 1 - solved if easy == "less" else torch.zeros_like(solved)
    factor = 1 + alpha * conciseness.clamp(0, 1) * (1 - anneal * progress + push)
    return torch.where(reward > 0, reward * factor.to(reward.dtype), reward)
