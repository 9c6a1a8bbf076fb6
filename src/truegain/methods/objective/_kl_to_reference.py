from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from truegain.core.component import component
from truegain.core.kl import Estimator, kl_estimate


@component("surrogate", cite=("http://joschu.net/blog/kl-approx.html", "verl kl_penalty"))
def kl_to_reference(
    logp: Float[Tensor, "B T"],
    ref_logp: Float[Tensor, "B T"],
    *,
    beta: float = 0.001,
    estimator: Estimator = "k3",
    log_ratio_bound: float = 20.0,
    bound: float = 10.0,
) -> tuple[Float[Tensor, "B T"], dict[str, Tensor]]:
    """``beta`` times an estimate of KL(policy || reference) at each token, in nats.

    With ``d = logp - ref_logp``: k1 = d, abs = |d|, k2 = d^2 / 2, k3 = exp(-d) + d - 1. All are 0 at d = 0; only k1
    can be negative. As losses they differ: the expected gradient of k1 is 0, k3's is that of the reversed KL, only
    k2's is unbiased for KL(policy || reference) on-policy. A ``+`` takes the value of the estimator and the gradient
    of k2, as verl's suffix does.

    ``beta`` >= 0. For k3, ``log_ratio_bound`` clamps d against overflow and ``bound`` the estimate from above, so that
    one token cannot be the whole step (verl's 20 and 10; TRL has neither: infinity). Raises SettingError for an unknown
    estimator. Source: Schulman 2020; GRPO uses k3 (Shao et al. 2024, equation 4).

    >>> import torch
    >>> loss, logs = kl_to_reference(torch.tensor([[0.0]]), torch.tensor([[-1.0]]), beta=1.0)
    >>> round(float(loss), 4)  # exp(-1) + 1 - 1
    0.3679
    """
    kl = kl_estimate(logp, ref_logp, estimator, log_ratio_bound, bound, "kl_to_reference")
    return beta * kl, {"kl": kl}
