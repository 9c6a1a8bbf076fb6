from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from truegain.core.component import component
from truegain.core.errors import SettingError


@component("reward", cite="arXiv:2112.12228")
def within_budget(
    mask: Bool[Tensor, "B T"], truncated: Bool[Tensor, "B"], *, share: float = 0.75, max_tokens: int
) -> Float[Tensor, "B"]:
    """1 for a completion that ended by itself within ``share`` of the token limit, else 0: an indicator, no price.

    Its mean is the rate of completions within the budget, which `multipliers` can hold above a threshold. Length counts
    up to the row's last policy token, a tool's tokens before it included; an empty row is within every budget.

    Raises SettingError for a share outside of (0, 1]. Source: Roy et al. 2022, behaviours as indicators.

    >>> import torch
    >>> mask, cut = torch.tensor([[True, True], [True, False]]), torch.tensor([False, False])
    >>> within_budget(mask, cut, share=0.5, max_tokens=2)
    tensor([0., 1.])
    """
    if not 0 < share <= 1:
        raise SettingError(f"within_budget: share={share} must be above 0 and at most 1")
    places = torch.arange(1, mask.shape[1] + 1, device=mask.device)
    length = (mask * places).amax(dim=1) if mask.shape[1] else torch.zeros_like(truncated, dtype=torch.long)
    return (~truncated & (length <= share * max_tokens)).float()
