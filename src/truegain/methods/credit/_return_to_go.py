from __future__ import annotations

from jaxtyping import Bool, Float
from torch import Tensor

from truegain.core.component import component
from truegain.methods.credit._shared import discounted_to_go, on_last_token


@component("credit", cite=("arXiv:2501.03262", "verl compute_reinforce_plus_plus_outcome_advantage"))
def return_to_go(reward: Float[Tensor, "B"], mask: Bool[Tensor, "B T"], *, gamma: float = 1.0) -> Float[Tensor, "B T"]:
    """Discounted sum of what is still to come, the reward standing on the row's last policy token.

    ``R_t = r_t + gamma * R_{t+1}``, counted over the policy's own tokens: a tool's tokens are skipped and cost no
    discount (verl 0.9; before, they cut the sum). With ``gamma=1`` every token gets its row's reward: plain REINFORCE.

    ``gamma`` in [0, 1]. A row without a policy token gets nothing. A per-token KL penalty is `reference_kl_to_go`
    beside it, as returns add. Source: Hu et al. 2025 (REINFORCE++), section 3; Williams 1992.

    >>> import torch
    >>> return_to_go(torch.tensor([1.0]), torch.tensor([[True, True, False, True]]), gamma=0.5)
    tensor([[0.2500, 0.5000, 0.0000, 1.0000]])
    """
    return discounted_to_go(on_last_token(reward, mask), mask, gamma).masked_fill(~mask, 0.0)
