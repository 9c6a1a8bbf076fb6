from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import logsigmoid

from truegain.core.component import component
from truegain.core.errors import WiringError


@component("reward", cite="arXiv:2402.00742")
def log_sigmoid(
    reward_parts: Float[Tensor, "B K"], reference_reward: Float[Tensor, "B K"], *, weights: tuple[float, ...] = ()
) -> Float[Tensor, "B"]:
    """Log-probability of being good on every count: ``sum_k w_k log sigmoid(r_k - ref_k)``, in place of the sum so far.

    A modifier: ``reward_parts`` are the named rewards before it, ``reference_reward`` what a good enough answer to the
    row's prompt earns of each (`reference_quantile` or `known_reference` fills it). The slope in r_k is
    ``w_k * (1 - sigmoid(r_k - ref_k))``: about w_k far below the reference, 1/2 at it, about 0 far above, so that a
    gain where the answer is bad is worth more than one where it is good. Meant for rewards in log-odds, as those of
    Bradley-Terry models; at most 0. ``weights`` >= 0, one per reward; empty: 1 for each. A NaN in a row makes it NaN,
    which the loop refuses.

    Raises WiringError when references or weights do not fit the named rewards.
    Source: Wang et al. 2024, the log-sigmoid-centred transformation and its sum.

    >>> import torch
    >>> log_sigmoid(torch.tensor([[3.0, 0.0], [0.0, 0.0]]), torch.zeros(2, 2))
    tensor([-0.7417, -1.3863])
    """
    count = reward_parts.shape[1]
    given = weights or (1.0,) * count
    if reference_reward.shape[1] != count or len(given) != count:
        raise WiringError(
            f"reward.log_sigmoid transforms {count} named rewards, with {reference_reward.shape[1]} references and "
            f"{len(given)} weights; give one of each, and put it right after the rewards that it transforms"
        )
    weight = torch.tensor(given, dtype=reward_parts.dtype, device=reward_parts.device)
    return (weight * logsigmoid(reward_parts - reference_reward)).sum(dim=1)
