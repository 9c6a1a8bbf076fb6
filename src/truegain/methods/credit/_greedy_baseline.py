from __future__ import annotations

from jaxtyping import Bool, Float
from torch import Tensor

from truegain.core.component import component
from truegain.methods.credit._shared import over_tokens


@component("credit", cite=("arXiv:2310.10505", "verl compute_remax_outcome_advantage"))
def greedy_baseline(
    reward: Float[Tensor, "B"], greedy_reward: Float[Tensor, "B"], mask: Bool[Tensor, "B T"]
) -> Float[Tensor, "B T"]:
    """Reward minus that of the greedy completion of the same prompt, the same for every token of a row.

    ``A_i = r_i - b_i``. The baseline does not depend on what was sampled, so the gradient is unbiased with one sample
    per prompt; a row that equals the greedy completion gets 0. Source: Li et al. 2023 (ReMax), algorithm 1.

    >>> import torch
    >>> greedy_baseline(torch.tensor([1.0]), torch.tensor([0.4]), torch.tensor([[True, True, False]]))
    tensor([[0.6000, 0.6000, 0.0000]])
    """
    return over_tokens(reward - greedy_reward, mask)
