from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from truegain.core.component import component
from truegain.core.errors import SettingError


@component("surrogate", cite=("http://joschu.net/blog/kl-approx.html", "verl kl_penalty_forward"))
def kl_to_reference(
    logp: Float[Tensor, "B T"],
    ref_logp: Float[Tensor, "B T"],
    *,
    beta: float = 0.001,
    estimator: Literal["k1", "k2", "k3"] = "k3",
    log_ratio_bound: float = 20.0,
    bound: float = 10.0,
) -> tuple[Float[Tensor, "B T"], dict[str, Tensor]]:
    """``beta`` times an estimate of KL(policy || reference) at each token, in nats.

    With ``d = logp - ref_logp``: k1 = d, k2 = d^2 / 2, k3 = exp(-d) + d - 1. All are 0 at d = 0; k2 and k3 are never
    negative. As losses they differ: the expected gradient of k1 is 0, k3's is that of the reversed KL, only k2's is
    unbiased for KL(policy || reference) on-policy.

    ``beta`` >= 0. ``log_ratio_bound`` clamps d against overflow, ``bound`` the k3 estimate from above, so that one
    token cannot be the whole step (verl's 20 and 10; TRL has neither). Raises SettingError for an unknown estimator.
    Source: Schulman 2020; GRPO uses k3 (Shao et al. 2024, equation 4).

    >>> import torch
    >>> loss, logs = kl_to_reference(torch.tensor([[0.0]]), torch.tensor([[-1.0]]), beta=1.0)
    >>> round(float(loss), 4)  # exp(-1) + 1 - 1
    0.3679
    """
    d = (logp - ref_logp).clamp(-log_ratio_bound, log_ratio_bound)
    if estimator == "k1":
        kl = d
    elif estimator == "k2":
        kl = d * d / 2
    elif estimator == "k3":
        kl = (torch.expm1(-d) + d).clamp(max=bound)
    else:
        raise SettingError(f"kl_to_reference: estimator={estimator!r}; it is k1, k2 or k3")
    return beta * kl, {"kl": kl}
