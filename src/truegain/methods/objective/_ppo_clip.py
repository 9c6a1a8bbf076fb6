from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from truegain.core.component import component


@component("surrogate", cite=("arXiv:1707.06347", "arXiv:2503.14476", "arXiv:1912.09729", "arXiv:2505.07291"))
def ppo_clip(
    logp: Float[Tensor, "B T"],
    old_logp: Float[Tensor, "B T"],
    advantage: Float[Tensor, "B T"],
    *,
    clip_low: float = 0.2,
    clip_high: float = 0.2,
    dual: float | None = None,
    delta: float | None = None,
    log_ratio_bound: float = 20.0,
) -> tuple[Float[Tensor, "B T"], dict[str, Tensor]]:
    """Clipped policy-gradient loss of each token.

    ``rho = exp(logp - old_logp)``, ``L = -min(rho * A, clip(rho, 1 - clip_low, 1 + clip_high) * A)``.

    ``clip_low`` in [0, 1], ``clip_high`` >= 0; unequal bounds are DAPO's clip-higher. ``dual`` (> 1; verl's default is
    3) bounds the loss of a negative advantage by ``-dual * A``; ``delta`` (TRL) caps the first rho, the unclipped one.
    From ``1 + clip_high`` upwards the two are the same function; below it they differ. None leaves the loss unbounded.
    ``log_ratio_bound`` clamps the log-ratio against overflow (verl's 20; TRL has none). Logs the shares of tokens
    clipped below, above and either, as TRL names them. A NaN log-prob gives a NaN loss, which the loop refuses before
    an update.

    Source: Schulman et al. 2017, equation 7; Yu et al. 2025 for the two bounds; Ye et al. 2020 for the dual clip;
    INTELLECT-2 for delta.

    >>> import torch
    >>> old, new = torch.zeros(1, 2), torch.tensor([[0.5, -0.5]])
    >>> loss, logs = ppo_clip(new, old, torch.tensor([[1.0, 1.0]]))
    >>> loss.round(decimals=4).tolist(), logs["clip_ratio/high_mean"].tolist()
    ([[-1.2000000476837158, -0.6065000295639038]], [[1.0, 0.0]])
    """
    ratio = (logp - old_logp).clamp(-log_ratio_bound, log_ratio_bound).exp()
    clipped = ratio.clamp(1 - clip_low, 1 + clip_high)
    low = ((ratio < 1 - clip_low) & (advantage < 0)).float()
    high = ((ratio > 1 + clip_high) & (advantage > 0)).float()
    logs = {"clip_ratio/low_mean": low, "clip_ratio/high_mean": high, "clip_ratio/region_mean": low + high}
    free = ratio if delta is None else ratio.clamp(max=delta)
    loss = -torch.minimum(free * advantage, clipped * advantage)
    if dual is not None:
        loss = torch.where(advantage < 0, torch.minimum(loss, -dual * advantage), loss)
    return loss, logs
