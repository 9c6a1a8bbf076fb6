from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from truegain.core.component import component


@component("probe", cite="arXiv:2511.09158", fills="conciseness")
def conciseness_of_model(
    model_reward: Float[Tensor, "B M"], *, least: float = 0.1, most: float = 1.0
) -> dict[str, Tensor]:
    """What reward models say of a completion as its conciseness: their mean, clipped to [``least``, ``most``].

    Fills ``conciseness[B]``. A role with a head that fills ``model_reward`` is such a model; the source trains one of
    3 billion parameters on labels 0.1 to 1.0 that a large judge gave. A NaN stays: the loop refuses the row if it is
    right, and a wrong row never feels it. Source: Wang et al. 2025 (CRF).

    >>> import torch
    >>> conciseness_of_model(torch.tensor([[0.2, 0.6], [7.0, 7.0], [-1.0, 0.0]]))
    {'conciseness': tensor([0.4000, 1.0000, 0.1000])}
    """
    return {"conciseness": model_reward.mean(dim=1).clamp(least, most)}
