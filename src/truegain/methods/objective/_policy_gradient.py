from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from truegain.core.component import component


@component("surrogate", cite=("doi:10.1007/BF00992696", "verl compute_policy_loss_reinforce"))
def policy_gradient(logp: Float[Tensor, "B T"], advantage: Float[Tensor, "B T"]) -> Float[Tensor, "B T"]:
    """The score-function loss ``L = -A * logp``: no ratio, no clip.

    Exact for the policy that drew the tokens. After further optimiser steps on them, `capped_ratio` with ``cap=None``
    is the same gradient weighted by the likelihood ratio. Source: Williams 1992.

    >>> import torch
    >>> policy_gradient(torch.tensor([[-2.0, -3.0]]), torch.tensor([[1.0, -1.0]]))
    tensor([[ 2., -3.]])
    """
    return -advantage * logp
