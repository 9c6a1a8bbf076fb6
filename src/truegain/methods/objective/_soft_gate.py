from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from truegain.core.component import component


@component("surrogate", cite=("arXiv:2511.20347", "verl compute_policy_loss_sapo", "TRL loss_type sapo"))
def soft_gate(
    logp: Float[Tensor, "B T"],
    old_logp: Float[Tensor, "B T"],
    advantage: Float[Tensor, "B T"],
    *,
    tau_pos: float = 1.0,
    tau_neg: float = 1.05,
    log_ratio_bound: float = 20.0,
) -> Float[Tensor, "B T"]:
    """SAPO: a smooth gate in place of the clip, of slope 1 at ratio 1 and fading on both sides.

    ``rho = exp(logp - old_logp)``, ``L = -A * f(rho)``, ``f(rho) = sigmoid(tau * (rho - 1)) * 4 / tau``, so that
    ``f'(rho) = 4 s (1 - s)`` with the sigmoid s: tau = ``tau_pos`` where A > 0, ``tau_neg`` elsewhere, both > 0.
    A larger tau trusts a narrower range. ``log_ratio_bound`` clamps the log-ratio against overflow (verl's 20; TRL
    has none). Source: Soft Adaptive Policy Optimization 2025.

    >>> import torch
    >>> rho = torch.tensor([[0.5, 1.0, 2.0]])
    >>> -soft_gate(rho.log(), torch.zeros(1, 3), torch.ones(1, 3)).round(decimals=4)
    tensor([[1.5102, 2.0000, 2.9242]])
    """
    ratio = (logp - old_logp).clamp(-log_ratio_bound, log_ratio_bound).exp()
    tau = torch.where(advantage > 0, advantage.new_tensor(tau_pos), advantage.new_tensor(tau_neg))
    return -advantage * torch.sigmoid(tau * (ratio - 1)) * 4 / tau
