from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from truegain.core.component import component
from truegain.core.kl import Estimator, kl_estimate


@component("surrogate", cite=("arXiv:2504.04524", "XueruiSu/TRPA core_algos.py"))
def kl_to_old(
    logp: Float[Tensor, "B T"],
    old_logp: Float[Tensor, "B T"],
    *,
    beta: float = 0.001,
    estimator: Estimator = "k3",
    log_ratio_bound: float = 20.0,
    bound: float = 10.0,
) -> tuple[Float[Tensor, "B T"], dict[str, Tensor]]:
    """``beta`` times an estimate of KL(policy || the policy that drew the rows) at each token, in nats: a trust region.

    Formulas and knobs are those of `kl_to_reference`, with ``old_logp`` in the place of the reference; its gradient is
    0 in the first optimiser step of a batch. Logs ``kl_old``. Raises SettingError for an unknown estimator.
    Source: Su et al. 2025.

    >>> import torch
    >>> loss, logs = kl_to_old(torch.tensor([[0.0]]), torch.tensor([[-1.0]]), beta=1.0)
    >>> round(float(loss), 4)  # exp(-1) + 1 - 1
    0.3679
    """
    kl = kl_estimate(logp, old_logp, estimator, log_ratio_bound, bound, "kl_to_old")
    return beta * kl, {"kl_old": kl}
