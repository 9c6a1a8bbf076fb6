from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from truegain.core.component import component
from truegain.core.kl import Estimator, kl_estimate


@component("surrogate", cite=("arXiv:2512.02556", "TRL use_bias_correction_kl"))
def corrected_kl_to_reference(
    logp: Float[Tensor, "B T"],
    old_logp: Float[Tensor, "B T"],
    ref_logp: Float[Tensor, "B T"],
    *,
    beta: float = 0.001,
    estimator: Estimator = "k3",
    log_ratio_bound: float = 20.0,
    bound: float = 10.0,
) -> tuple[Float[Tensor, "B T"], dict[str, Tensor]]:
    """The penalty of `kl_to_reference`, importance-weighted: ``beta * exp(logp - old_logp) * estimate``.

    The ratio carries gradient. That makes k3's expected gradient the one of KL(policy || reference), at the old policy
    and away from it; TRL 1.16 does this by default. ``log_ratio_bound`` clamps both log-ratios. Raises SettingError for
    an unknown estimator. Source: DeepSeek-V3.2, the unbiased KL estimate.

    >>> import torch
    >>> new, old, ref = torch.tensor([[0.0]]), torch.tensor([[-0.5]]), torch.tensor([[-1.0]])
    >>> loss, logs = corrected_kl_to_reference(new, old, ref, beta=1.0)
    >>> round(float(loss), 4)  # exp(0.5) * (exp(-1) + 1 - 1)
    0.6065
    """
    ratio = (logp - old_logp).clamp(-log_ratio_bound, log_ratio_bound).exp()
    kl = ratio * kl_estimate(logp, ref_logp, estimator, log_ratio_bound, bound, "corrected_kl_to_reference")
    return beta * kl, {"kl": kl}
