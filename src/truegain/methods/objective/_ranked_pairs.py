from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import logsigmoid

from truegain.core import segments
from truegain.core.component import component
from truegain.methods.objective._groups import row_means
from truegain.methods.objective._ranks import ordered_pairs, spread_over_rows


@component("surrogate", cite=("arXiv:2504.04524", "XueruiSu/TRPA compute_pairwise_policy_loss"))
def ranked_pairs(
    logp: Float[Tensor, "B T"],
    ref_logp: Float[Tensor, "B T"],
    level: Float[Tensor, "B"],
    group: Int[Tensor, "B"],
    mask: Bool[Tensor, "B T"],
    *,
    beta: float = 0.1,
    anisotropy: float = 2.5,
) -> tuple[Float[Tensor, "B T"], dict[str, Tensor]]:
    """Every better row of a group against every worse one by a logistic loss: no reward, only ranks by rule.

    ``u_i = mean_t(logp) - mean_t(ref_logp)`` over the row's tokens. For every pair of one group with
    ``level_i < level_j`` (1 is the best):

        h = beta * (u_i - u_j) * (anisotropy if level_i is 1 else 1),   L = -log sigmoid(h)

    The tokens of a group add up to the sum of its pairs' losses, half of each at either row; `pair_mean` makes it the
    mean over all pairs. Rows of one level, of a level that is NaN, and without a token make no pair. Logs
    ``truegain/pairs_won``, the share of a row's pairs in which u has the better row ahead. Source: Su et al. 2025.

    >>> import torch
    >>> logp, one = torch.tensor([[0.3], [-0.2], [0.1]]), torch.ones(3, 1, dtype=torch.bool)
    >>> ranks = torch.tensor([1.0, 2.0, 4.0])
    >>> loss, _ = ranked_pairs(logp, torch.zeros(3, 1), ranks, torch.zeros(3, dtype=torch.long), one)
    >>> round(float(loss.sum()) / 3, 4)  # of h = 0.125, 0.05, -0.03
    0.6698
    """
    score, count = row_means(logp - ref_logp, mask)
    score = score.detach()
    better, worse = ordered_pairs(level, group, count > 0)
    h = beta * (score[better] - score[worse]) * torch.where(level[better] == 1, anisotropy, 1.0).to(score.dtype)
    push = beta * torch.where(level[better] == 1, anisotropy, 1.0).to(score.dtype) * torch.sigmoid(-h)
    size, both = len(score), torch.cat([better, worse])
    value = segments.total((-logsigmoid(h) / 2).repeat(2), both, size)
    slope = segments.total(torch.cat([-push, push]), both, size)
    won = segments.mean((score[better] > score[worse]).to(score.dtype).repeat(2), both, size)
    return spread_over_rows(value, slope, logp, mask), {"truegain/pairs_won": won}
