from __future__ import annotations

from jaxtyping import Bool, Float
from torch import Tensor

from truegain.core.component import component


@component("reward", cite=("arXiv:2402.14740", "TRL RLOOTrainer beta"))
def reference_kl(
    old_logp: Float[Tensor, "B T"], ref_logp: Float[Tensor, "B T"], mask: Bool[Tensor, "B T"], *, beta: float = 0.05
) -> Float[Tensor, "B"]:
    """KL penalty in the reward of the whole completion: ``-beta * sum_t (old_logp - ref_logp)``, the k1 estimate.

    Being part of the reward it stands in the baseline of the group too. ``beta`` >= 0 per nat: TRL's RLOO 0.05. Summed,
    not averaged, over the policy's tokens; 0 for an empty row. Token by token: `reference_kl_to_go` in credit.
    Source: Ahmadian et al. 2024, equation 2.

    >>> import torch
    >>> old, ref = torch.tensor([[-1.0, -1.0]]), torch.tensor([[-2.0, -1.5]])
    >>> reference_kl(old, ref, torch.tensor([[True, True]]), beta=0.1)
    tensor([-0.1500])
    """
    return -beta * (old_logp - ref_logp).masked_fill(~mask, 0.0).sum(dim=1)
