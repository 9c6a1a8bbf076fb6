from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from truegain.core.component import component


@component("surrogate", cite="truegain")
def negative_logp(logp: Float[Tensor, "B T"]) -> Float[Tensor, "B T"]:
    """Negative log-likelihood of each token, in nats: supervised fine-tuning.

    >>> import torch
    >>> negative_logp(torch.tensor([[-0.5]]))
    tensor([[0.5000]])
    """
    return -logp
