"""What surrogates over whole groups share: row scores, and softmax and log-sum-exp within the rows of a group."""

from __future__ import annotations

import torch
from torch import Tensor

from truegain.core import segments


def row_means(values: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Mean over each row's tokens of the mask, and the number of them; both [B]. 0 for a row without a token."""
    count = mask.sum(dim=1)
    return values.masked_fill(~mask, 0.0).sum(dim=1) / count.clamp(min=1), count


def log_softmax_within(values: Tensor, ids: Tensor) -> Tensor:
    """``values`` [B] minus the log of the sum of their exponentials over their segment; -inf where ``ids`` is -1."""
    size = segments.count(ids)
    if not size:
        return torch.full_like(values, -torch.inf)
    mine = ids[None, :] == torch.arange(size, device=ids.device)[:, None]
    top = values[None, :].masked_fill(~mine, -torch.inf).amax(dim=1)  # of each segment: exponentials stay below 1
    near = values - segments.spread(torch.where(top.isfinite(), top, 0.0), ids)
    total = segments.total(near.masked_fill(ids < 0, 0.0).exp(), ids, size)
    return (near - segments.spread(total, ids).clamp(min=torch.finfo(values.dtype).tiny).log()).masked_fill(
        ids < 0, -torch.inf
    )
