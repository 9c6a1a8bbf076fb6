from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from truegain.core import segments
from truegain.core.component import component
from truegain.methods.credit._shared import centred_within, over_tokens


@component("credit", cite=("arXiv:2604.08545", "Accio-Lab/Metis hdpo_algos.py"))
def tool_economy(
    tool_calls: Float[Tensor, "B"],
    correct: Float[Tensor, "B"],
    group: Int[Tensor, "B"],
    mask: Bool[Tensor, "B T"],
    *,
    ddof: int = 1,
    eps: float = 1e-6,
) -> Float[Tensor, "B T"]:
    """Few tool calls, compared among the right answers of a group alone.

    ``r = 1 / (calls + 1)``; ``A_i = (r_i - mean_Q) / (std_Q + eps)`` for i in Q, the rows of the group with ``correct >
    0``; 0 for all others. A wrong answer never gains by having used few tools.

    Fewer than two right answers in a group, or equal numbers of calls, give exactly 0. ``ddof``: 1 is the sample
    deviation. ``eps`` >= 0. A NaN in ``tool_calls`` of a right answer makes its Q NaN, which the loop refuses.
    Source: HDPO ("Act Wisely", 2026), as released.

    >>> import torch
    >>> calls, right = torch.tensor([0.0, 1.0, 4.0, 2.0]), torch.tensor([1.0, 1.0, 1.0, 0.0])
    >>> group, one = torch.zeros(4, dtype=torch.long), torch.ones(4, 1, dtype=torch.bool)
    >>> tool_economy(calls, right, group, one).flatten().round(decimals=3)
    tensor([ 1.0720, -0.1650, -0.9070,  0.0000])
    """
    qualifies = correct > 0
    economy = 1 / (tool_calls + 1)
    # The others make a segment of their own, which is dropped.
    ids = torch.where(qualifies, group, segments.count(group))
    centred = centred_within(economy, ids).masked_fill(~qualifies, 0.0)
    size = segments.spread(segments.total(torch.ones_like(centred), ids), ids)
    deviation = (segments.spread(segments.total(centred**2, ids), ids) / (size - ddof).clamp(min=1)).sqrt()
    return over_tokens(centred / (deviation + eps), mask)
