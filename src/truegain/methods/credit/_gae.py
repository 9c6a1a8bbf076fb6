from __future__ import annotations

from jaxtyping import Bool, Float
from torch import Tensor

from truegain.core.component import component
from truegain.methods.credit._shared import gae_of


@component("credit", cite=("arXiv:1506.02438", "verl compute_gae_advantage_return"))
def gae(
    reward: Float[Tensor, "B"],
    old_value: Float[Tensor, "B T"],
    mask: Bool[Tensor, "B T"],
    *,
    gamma: float = 1.0,
    lam: float = 1.0,
) -> Float[Tensor, "B T"]:
    """Generalised advantage estimation from a critic, the reward standing on the row's last policy token.

    ``delta_t = r_t + gamma * V_{t+1} - V_t``, ``A_t = delta_t + gamma * lam * A_{t+1}``, 0 after the last token. A
    tool's tokens are skipped: t+1 is the next policy token, as if the row were written without them.

    ``gamma`` and ``lam`` in [0, 1]: ``lam=0`` is the one-step surprise, ``lam=1`` the return minus the value. A row
    without a policy token gets nothing. Not whitened: `whiten` after it is what verl and TRL do. A per-token KL penalty
    is `reference_kl_to_go` beside it. The critic's target is `gae_returns`. Source: Schulman et al. 2016, equation 16.

    >>> import torch
    >>> value, mask = torch.tensor([[0.2, 0.4, 0.9, 0.6]]), torch.tensor([[True, True, False, True]])
    >>> gae(torch.tensor([1.0]), value, mask, lam=0.95)
    tensor([[0.7510, 0.5800, 0.0000, 0.4000]])
    """
    return gae_of(reward, old_value, mask, gamma, lam)
