from __future__ import annotations

from jaxtyping import Bool, Float
from torch import Tensor

from truegain.core.component import component
from truegain.methods.credit._shared import gae_of


@component("credit", cite=("arXiv:1506.02438", "verl compute_gae_advantage_return"))
def gae_returns(
    reward: Float[Tensor, "B"],
    old_value: Float[Tensor, "B T"],
    mask: Bool[Tensor, "B T"],
    *,
    gamma: float = 1.0,
    lam: float = 1.0,
) -> Float[Tensor, "B T"]:
    """The critic's target: `gae` before whitening plus the value it was computed from, ``R_t = A_t + V_t``.

    To be the credit of the critic's term, with the knobs of the policy's `gae`; its surrogate reads it as ``target``.
    With ``gamma = lam = 1`` it is the row's reward at every policy token. 0 outside the mask.
    Source: Schulman et al. 2016, section 5; verl's ``returns``.

    >>> import torch
    >>> value, mask = torch.tensor([[0.2, 0.4, 0.9, 0.6]]), torch.tensor([[True, True, False, True]])
    >>> gae_returns(torch.tensor([1.0]), value, mask, lam=0.95)
    tensor([[0.9510, 0.9800, 0.0000, 1.0000]])
    """
    return (gae_of(reward, old_value, mask, gamma, lam) + old_value).masked_fill(~mask, 0.0)
