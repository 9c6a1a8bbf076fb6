from __future__ import annotations

from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import logsigmoid

from truegain.core.component import component
from truegain.methods.objective._groups import row_means
from truegain.methods.objective._ranks import spread_over_rows


@component("surrogate", cite=("arXiv:2504.04524", "XueruiSu/TRPA compute_pairwise_policy_loss"))
def unpaired_ranks(
    logp: Float[Tensor, "B T"],
    ref_logp: Float[Tensor, "B T"],
    level: Float[Tensor, "B"],
    mask: Bool[Tensor, "B T"],
    *,
    beta: float = 1.0,
) -> Float[Tensor, "B T"]:
    """Each row by itself: up with the best level, down with any other, by a logistic loss against the reference.

    ``L = -log sigmoid(beta * u)`` for rows of level 1 and ``-log sigmoid(-beta * u)`` for others, u as in
    `ranked_pairs`, spread evenly over the row's tokens. Rows of a level that is NaN give 0. With `unpaired_mean` it
    acts in steps in which no two rows of a group differ in level. Source: Su et al. 2025, the code's fallback.

    >>> import torch
    >>> one = torch.ones(2, 1, dtype=torch.bool)
    >>> unpaired_ranks(torch.tensor([[1.0], [1.0]]), torch.zeros(2, 1), torch.tensor([1.0, 3.0]), one)
    tensor([[0.3133],
            [1.3133]])
    """
    score, _ = row_means(logp - ref_logp, mask)
    sign = (2 * (level == 1).to(score.dtype) - 1) * beta
    h = sign * score.detach()
    value, slope = -logsigmoid(h), -sign * (-h).sigmoid()
    ranked = ~level.isnan()
    return spread_over_rows(value * ranked, slope * ranked, logp, mask)
