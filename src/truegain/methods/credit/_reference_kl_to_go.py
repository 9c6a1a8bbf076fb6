from __future__ import annotations

from jaxtyping import Bool, Float
from torch import Tensor

from truegain.core.component import component
from truegain.methods.credit._shared import discounted_to_go


@component("credit", cite=("arXiv:2501.03262", "arXiv:2203.02155", "verl apply_kl_penalty kl"))
def reference_kl_to_go(
    old_logp: Float[Tensor, "B T"],
    ref_logp: Float[Tensor, "B T"],
    mask: Bool[Tensor, "B T"],
    *,
    beta: float = 0.001,
    gamma: float = 1.0,
) -> Float[Tensor, "B T"]:
    """The share in the advantage of a per-token KL penalty in the reward: ``r_t -= beta * (old_logp - ref_logp)_t``.

    ``K_t = -beta * d_t + gamma * K_{t+1}`` with d the k1 estimate, in nats, over the policy's own tokens. Advantages
    are linear in the rewards, so this member beside another adds the penalty to it: beside `return_to_go` with its
    ``gamma``, beside `gae` and `gae_returns` with ``gamma * lam``.

    ``beta`` >= 0 (verl 0.001, TRL's RLOO 0.05), ``gamma`` in [0, 1]. The log-ratio is not clamped, as in both
    libraries. Source: Ouyang et al. 2022, equation 2, token by token; Hu et al. 2025, section 3.

    >>> import torch
    >>> old, ref = torch.tensor([[-1.0, -1.0]]), torch.tensor([[-2.0, -1.5]])
    >>> reference_kl_to_go(old, ref, torch.tensor([[True, True]]), beta=1.0)
    tensor([[-1.5000, -0.5000]])
    """
    return discounted_to_go(-beta * (old_logp - ref_logp), mask, gamma).masked_fill(~mask, 0.0)
