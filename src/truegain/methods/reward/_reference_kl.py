from __future__ import annotations

from jaxtyping import Bool, Float
from torch import Tensor

from truegain.core.component import component
from truegain.core.kl import Estimator, kl_estimate


@component("reward", cite=("arXiv:2402.14740", "TRL RLOOTrainer beta", "http://joschu.net/blog/kl-approx.html"))
def reference_kl(
    old_logp: Float[Tensor, "B T"],
    ref_logp: Float[Tensor, "B T"],
    mask: Bool[Tensor, "B T"],
    *,
    beta: float = 0.05,
    estimator: Estimator = "k1",
    log_ratio_bound: float = 20.0,
    bound: float = 10.0,
) -> Float[Tensor, "B"]:
    """KL penalty in the reward of the whole completion: ``-beta * sum_t estimate_t``, by default k1, the log-ratio.

    Being part of the reward it stands in the baseline of the group too. ``beta`` >= 0 per nat: TRL's RLOO 0.05. Summed,
    not averaged, over the policy's tokens; 0 for an empty row. Token by token: `reference_kl_to_go` in credit.
    ``estimator`` and its bounds are those of `kl_to_reference`; only k1 gives the gradient of KL(policy || reference)
    here, k2 and k3 almost none near the reference (`truegain.core.kl` says what each gives).
    Raises SettingError for an unknown estimator. Source: Ahmadian et al. 2024, equation 2; Schulman 2020.

    >>> import torch
    >>> old, ref = torch.tensor([[-1.0, -1.0]]), torch.tensor([[-2.0, -1.5]])
    >>> reference_kl(old, ref, torch.tensor([[True, True]]), beta=0.1)
    tensor([-0.1500])
    """
    kl = kl_estimate(old_logp, ref_logp, estimator, log_ratio_bound, bound, "reference_kl")
    return -beta * kl.masked_fill(~mask, 0.0).sum(dim=1)
