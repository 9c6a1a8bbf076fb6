from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from truegain.core.component import component


@component("surrogate", cite=("arXiv:2506.13585", "verl compute_policy_loss_cispo", "TRL loss_type cispo"))
def capped_ratio(
    logp: Float[Tensor, "B T"],
    old_logp: Float[Tensor, "B T"],
    advantage: Float[Tensor, "B T"],
    *,
    floor: float = 0.0,
    cap: float | None = 5.0,
    log_ratio_bound: float = 20.0,
) -> tuple[Float[Tensor, "B T"], dict[str, Tensor]]:
    """CISPO: the likelihood ratio is bounded and detached, so no token ever loses its gradient.

    ``rho = exp(logp - old_logp)``, ``L = -sg(clip(rho, floor, cap)) * A * logp``, sg stopping the gradient.

    ``floor`` in [0, 1] and ``cap`` >= 1 are bounds of the ratio itself, not offsets from 1. The paper has no floor and
    leaves the cap to be tuned; 5 is what TRL's documentation recommends after ScaleRL. verl's default is ``floor=0.8,
    cap=1.2``. ``cap=None`` has no bound: REINFORCE with importance weights. ``log_ratio_bound`` clamps the log-ratio
    against overflow (verl's 20; TRL has none). Logs the share of tokens at a bound.

    Source: MiniMax-M1 2025, equations 4 and 5, with the advantage of the row.

    >>> import torch
    >>> logp = torch.log(torch.tensor([[0.5, 1.0, 1.5]])).requires_grad_()
    >>> loss, _ = capped_ratio(logp, torch.zeros(1, 3), torch.ones(1, 3), floor=0.8, cap=1.2)
    >>> loss.sum().backward()
    >>> logp.grad.round(decimals=4)
    tensor([[-0.8000, -1.0000, -1.2000]])
    """
    ratio = (logp.detach() - old_logp).clamp(-log_ratio_bound, log_ratio_bound).exp()
    bounded = ratio.clamp(min=floor, max=cap)
    return -bounded * advantage * logp, {"cispo_clip_ratio": (bounded != ratio).float()}
