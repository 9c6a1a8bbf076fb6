from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from truegain.core.component import component
from truegain.core.errors import SettingError


@component("surrogate", cite=("arXiv:2507.18071", "verl compute_policy_loss_gspo", "TRL importance_sampling_level"))
def sequence_clip(
    logp: Float[Tensor, "B T"],
    old_logp: Float[Tensor, "B T"],
    advantage: Float[Tensor, "B T"],
    mask: Bool[Tensor, "B T"],
    *,
    clip_low: float = 3e-4,
    clip_high: float = 4e-4,
    ratio: Literal["mean", "sum"] = "mean",
    log_ratio_bound: float = 10.0,
) -> tuple[Float[Tensor, "B T"], dict[str, Tensor]]:
    """Clipped loss with one likelihood ratio per row: a whole completion is clipped, or none of it.

    ``rho = exp(mean_t(logp - old_logp))``, ``L = -min(rho * A, clip(rho, 1 - clip_low, 1 + clip_high) * A)`` at every
    token of the row. ``ratio="mean"`` is GSPO's geometric mean; ``"sum"`` the ratio of the whole row, as in TRL's RLOO.

    The gradient goes token by token: ``log rho`` is taken as a constant, plus ``logp - sg(logp)``, times the row's
    tokens for ``"sum"``. Summed by `sequence_mean` and with one advantage per row, that is exactly the gradient of the
    row's own ratio; an advantage that varies over tokens credits each with its own (GSPO-token).

    ``clip_low`` in [0, 1] and ``clip_high`` >= 0 are the paper's for long completions; short ones need 1e-2 to 1e-1,
    TRL's RLOO has 0.2. ``log_ratio_bound`` clamps ``log rho`` from above (verl's 10; TRL has none). Logs as `ppo_clip`.
    Raises SettingError for an unknown ``ratio``. Source: Zheng et al. 2025, equations 5 to 7 and 14.

    >>> import torch
    >>> change = torch.tensor([[0.2, -0.1, 0.5], [-0.3, -0.1, 0.0]])
    >>> sign, whole = torch.tensor([[1.0], [-1.0]]).expand(2, 3), torch.ones(2, 3, dtype=torch.bool)
    >>> loss, _ = sequence_clip(change, torch.zeros(2, 3), sign, whole, clip_low=0.2, clip_high=0.2)
    >>> loss[:, 0].round(decimals=4)
    tensor([-1.2000,  0.8752])
    """
    if ratio not in ("mean", "sum"):
        raise SettingError(f"sequence_clip: ratio={ratio!r}; it is mean or sum")
    length = mask.sum(dim=1, keepdim=True).clamp(min=1)
    # Log-probs of padding may be anything, NaN included.
    whole = (logp.detach() - old_logp).masked_fill(~mask, 0.0).sum(dim=1, keepdim=True)
    own = logp - logp.detach()
    log_rho = own + whole / length if ratio == "mean" else own * length + whole
    rho = log_rho.clamp(max=log_ratio_bound).exp()
    clipped = rho.clamp(1 - clip_low, 1 + clip_high)
    low = ((rho < 1 - clip_low) & (advantage < 0)).float()
    high = ((rho > 1 + clip_high) & (advantage > 0)).float()
    logs = {"clip_ratio/low_mean": low, "clip_ratio/high_mean": high, "clip_ratio/region_mean": low + high}
    return -torch.minimum(rho * advantage, clipped * advantage), logs
