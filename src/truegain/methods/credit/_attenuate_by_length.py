from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from truegain.core import segments
from truegain.core.component import component
from truegain.core.errors import SettingError


@component("credit", cite=("arXiv:2602.10019", "github.com/ShadeCloak/ADORA"))
def attenuate_by_length(
    advantage: Float[Tensor, "B T"],
    correct: Float[Tensor, "B"],
    group: Int[Tensor, "B"],
    mask: Bool[Tensor, "B T"],
    *,
    factor: float = 0.1,
    limit: float = 0.99,
    rule: Literal["text", "image"] = "text",
    max_tokens: int,
) -> tuple[Float[Tensor, "B T"], dict[str, Tensor]]:
    """Weigh down groups in which no right answer is longer than the mean wrong one: a modifier of the credit before it.

    ``A' = omega_g * A`` with omega 1 where ``max length of right rows > mean length of wrong rows``, else ``factor``.
    A group that says that longer thinking pays keeps its step; the others are attenuated, not thrown away, and a sum
    of advantages that was 0 in a group stays 0. Logs ``truegain/attenuated``, the share of rows with weight ``factor``.

    A row is right where ``correct`` > 0.5; its length is the number of its policy tokens. Wrong rows count only if they
    are shorter than ``limit`` * ``max_tokens``: one that ran into the limit says nothing about thinking longer. Without
    a right row ``"text"`` attenuates (``"image"`` keeps); with right rows but no wrong one that counts ``"text"`` keeps
    (``"image"`` attenuates); with neither both attenuate. A NaN in ``correct`` counts as wrong.

    ``factor`` >= 0: 1 changes nothing, 0 drops the groups, the source has 0.1. ``limit`` above 0 (the source's 4054 and
    4094 tokens, of what seems to be 4096, are 0.99 and 0.9995). Raises SettingError for knobs out of bounds.
    Source: Ren et al. 2026 (ADORA), the length rule of the published trainer.

    >>> import torch
    >>> mask = torch.arange(9) < torch.tensor([8, 4, 3, 6])[:, None]
    >>> correct, group = torch.tensor([1.0, 0.0, 1.0, 0.0]), torch.tensor([0, 0, 1, 1])
    >>> attenuate_by_length(mask.float(), correct, group, mask, max_tokens=9)[0][:, 0]
    tensor([1.0000, 1.0000, 0.1000, 0.1000])
    """
    if factor < 0 or limit <= 0 or rule not in ("text", "image"):
        raise SettingError(
            f"attenuate_by_length: factor={factor} is 0 or more, limit={limit} above 0, rule={rule!r} text or image"
        )
    size = segments.count(group)
    length = mask.sum(dim=1).to(advantage.dtype)
    right = correct > 0.5
    wrong = ~right & (length < limit * max_tokens)
    none = torch.full_like(group, -1)
    longest = torch.zeros(size, dtype=length.dtype, device=length.device)
    longest = longest.scatter_reduce(0, group, torch.where(right, length, torch.zeros_like(length)), reduce="amax")
    wrong_group = torch.where(wrong, group, none)
    has_right = segments.total(right.to(length.dtype), group, size) > 0
    has_wrong = segments.total(wrong.to(length.dtype), group, size) > 0
    pays = longest > segments.mean(length, wrong_group, size)
    useful = has_right & (pays | ~has_wrong) if rule == "text" else has_wrong & (pays | ~has_right)
    omega = torch.where(useful, torch.ones_like(longest), torch.full_like(longest, factor))
    per_row = segments.spread(omega, group)
    attenuated = (~segments.spread(useful, group)).to(length.dtype)
    out = torch.where(mask, advantage * per_row[:, None], torch.zeros_like(advantage))
    return out, {"truegain/attenuated": attenuated}
