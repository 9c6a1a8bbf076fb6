from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from truegain.core.component import component
from truegain.core.errors import SettingError


@component("credit", cite="arXiv:2601.03715")
def amplify_positive(
    advantage: Float[Tensor, "B T"],
    reward: Float[Tensor, "B"],
    mask: Bool[Tensor, "B T"],
    *,
    alpha: float = 3.0,
    success: float | None = 1.0,
) -> Float[Tensor, "B T"]:
    """Make what went well count more, so that failures do not drown it: a modifier of the credit before it.

    ``A' = 1`` where ``reward >= success``, whatever the group; else ``alpha * A`` where ``A >= 0``, else ``A``.

    ``alpha`` >= 0; 1 with ``success=None``, which leaves out the first rule, changes nothing. A success is 1 even in a
    group of one and in a group that is all right, so rows of equal rewards may get an advantage. A NaN reward is no
    success, and a NaN advantage stays. Raises SettingError for a negative ``alpha``.
    Source: Shi et al. 2026 (R3L), positive amplification, with the published trainer's rule for successes.

    >>> import torch
    >>> reward = torch.tensor([0.2, 0.6, 0.0, 1.0])
    >>> amplify_positive(torch.tensor([[-0.36], [0.04], [-0.56], [0.44]]), reward, torch.ones(4, 1, dtype=torch.bool))
    tensor([[-0.3600],
            [ 0.1200],
            [-0.5600],
            [ 1.0000]])
    """
    if alpha < 0:
        raise SettingError(f"amplify_positive: alpha={alpha} must be 0 or more")
    out = torch.where(advantage >= 0, alpha * advantage, advantage)
    if success is not None:
        out = torch.where((reward >= success)[:, None], torch.ones_like(out), out)
    return torch.where(mask, out, torch.zeros_like(out))
