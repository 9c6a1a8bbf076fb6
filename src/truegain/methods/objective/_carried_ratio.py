from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from truegain.core.component import component
from truegain.core.errors import SettingError


@component("weight", cite=("arXiv:2602.06554", "arXiv:2109.11251"))
def carried_ratio(
    mask: Bool[Tensor, "B T"],
    shift: Float[Tensor, "B U"],
    *,
    low: float = 0.8,
    high: float = 1.2,
    log_ratio_bound: float = 10.0,
) -> tuple[Float[Tensor, "B T"], dict[str, Tensor]]:
    """What the earlier steps of a renewing plan did to each row, as a factor on its advantage.

    ``rho = 1``; for every earlier part n in the plan's order ``r_n = clip(exp(shift_n), low, high)``,
    ``rho <- clip(rho * r_n, low, high)``, with ``shift_n`` the mean of ``logp - old_logp`` over the row's tokens of
    part n, which that step trained. A row that the others made likelier counts more in the steps to come: its
    advantage is then that under the policy the others have now. A factor above 0 on the weight is the same as one on
    the advantage in every clipped loss; a penalty that must not carry it is a term of its own.

    A part that a row has no token in, or that is still to come (both NaN), leaves ``rho``. The bounds have
    ``0 < low <= 1 <= high``, or SettingError; ``log_ratio_bound`` clamps ``shift``. Logs ``truegain/carried_ratio`` by
    row. All-masked rows get 0.

    Source: Hu et al. 2026 (SeeUPO), its published update of the ratios; Kuba et al. 2022 (HAPPO) for the product.

    >>> import torch
    >>> nan = float("nan")
    >>> shift = torch.tensor([[0.3, nan], [-0.1, nan], [-0.5, nan], [0.05, nan], [nan, nan]])
    >>> carried_ratio(torch.ones(5, 1, dtype=torch.bool), shift)[0].flatten()
    tensor([1.2000, 0.9048, 0.8000, 1.0513, 1.0000])
    """
    if not 0 < low <= 1 <= high:
        raise SettingError(f"carried_ratio: low={low}, high={high}; take 0 < low <= 1 <= high")
    moved = torch.where(shift.isnan(), torch.zeros_like(shift), shift).clamp(-log_ratio_bound, log_ratio_bound)
    ratio = moved.exp().clamp(low, high)
    rho = ratio.new_ones(len(ratio), 1)
    # The bound acts after every factor, so the product cannot be taken at once.
    for n in range(ratio.shape[1]):
        rho = (rho * ratio[:, n : n + 1]).clamp(low, high)
    return torch.where(mask, rho, torch.zeros_like(rho)), {"truegain/carried_ratio": rho[:, 0]}
