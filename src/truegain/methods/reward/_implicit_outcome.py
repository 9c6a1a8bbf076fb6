from __future__ import annotations

from jaxtyping import Bool, Float
from torch import Tensor

from truegain.core.component import component
from truegain.methods.reward._log_ratio import log_ratio


@component("reward", cite=("arXiv:2305.18290", "arXiv:2409.03650", "arXiv:2412.01981"))
def implicit_outcome(
    rm_logp: Float[Tensor, "B T"], rm_ref_logp: Float[Tensor, "B T"], mask: Bool[Tensor, "B T"], *, beta: float = 0.1
) -> Float[Tensor, "B"]:
    """Outcome reward of a language model, as DPO leaves one: ``r(y) = beta * sum_t (rm_logp_t - rm_ref_logp_t)``.

    0 for a row without a token, and for every row of a model that was not trained. ``beta``, above 0: units of reward
    per nat, the one of the training (0.1 in DPO); it changes no order. A NaN at a token makes its row NaN, which the
    loop refuses. Raises SettingError for a beta that is not above 0. Source: Rafailov et al. 2023, equation 5, without
    the term of the prompt.

    >>> import torch
    >>> implicit_outcome(torch.tensor([[-1.0, -2.0]]), torch.tensor([[-1.5, -4.0]]), torch.ones(1, 2).bool())
    tensor([0.2500])
    """
    return log_ratio(rm_logp, rm_ref_logp, mask, beta, "implicit_outcome").sum(dim=1)
