from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from truegain.core import segments
from truegain.core.component import component
from truegain.core.errors import SettingError
from truegain.methods.credit._shared import centred_within, over_tokens


@component("credit", cite="arXiv:2601.03525")
def weighted_tests(
    test_pass: Float[Tensor, "B K"],
    group: Int[Tensor, "B"],
    mask: Bool[Tensor, "B T"],
    *,
    alpha: float = 2.0,
    density: Literal["gaussian", "none"] = "gaussian",
    sigma: float = 0.2,
    delta: float = 1e-8,
    scale: float = 1.0,
) -> Float[Tensor, "B T"]:
    """Partial credit for the unit tests a row passes, rare ones worth more, minus the group's mean.

    ``rho_j`` is the share of the group's rows that pass test j, ``N_j = sum_j' exp(-(rho_j - rho_j')^2 / (2 sigma^2))``
    how many tests are about as hard, ``w_j = exp(-alpha rho_j) / (N_j + delta)``, ``R_i = sum_j w_j p_ij``, ``A_i =
    scale * (R_i - mean_group R)``, the same for every token of a row.

    ``alpha`` >= 0: 0 counts tests alike. ``sigma`` > 0, in shares of the group: copies of one test share one weight.
    ``density="none"`` leaves N out (the paper's first version). ``delta`` >= 0. A NaN is a test that the row's problem
    does not have: it takes no part. A group whose rows pass the same tests, one row alone included, gets exactly 0.

    Raises SettingError for an unknown ``density`` or a ``sigma`` that is not positive.
    Source: VeRPO 2026, second version.

    >>> import torch
    >>> passed = torch.tensor([[1.0, 1.0, 0.0], [1.0, 0.0, 0.0], [1.0, 1.0, 0.0], [1.0, 1.0, 1.0]])
    >>> group, one = torch.zeros(4, dtype=torch.long), torch.ones(4, 1, dtype=torch.bool)
    >>> weighted_tests(passed, group, one).flatten().round(decimals=3)
    tensor([-0.1080, -0.2570, -0.1080,  0.4730])
    """
    if density not in ("gaussian", "none") or not sigma > 0:
        raise SettingError(
            f"weighted_tests: density={density!r}, sigma={sigma!r}; density is gaussian or none, sigma a positive share"
        )
    width, groups = test_pass.shape[1], segments.count(group)
    there = ~test_pass.isnan()
    passed = test_pass.masked_fill(~there, 0.0)
    ids = torch.where(there, group[:, None] * width + torch.arange(width, device=group.device), -1)
    rate = segments.mean(passed, ids, groups * width).reshape(groups, width)
    exists = segments.total(there.to(rate.dtype), ids, groups * width).reshape(groups, width) > 0
    weight = torch.exp(-alpha * rate) * exists
    if density == "gaussian":
        near = torch.exp(-((rate[:, :, None] - rate[:, None, :]) ** 2) / (2 * sigma**2))
        weight = weight / ((near * exists[:, None, :]).sum(dim=2) + delta)
    gained = (segments.spread(weight.reshape(-1), ids) * passed).sum(dim=1)
    return over_tokens(scale * centred_within(gained, group), mask)
