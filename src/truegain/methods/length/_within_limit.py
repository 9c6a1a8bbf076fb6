from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from truegain.core import segments
from truegain.core.component import component
from truegain.core.errors import SettingError
from truegain.methods.length._gated import lengths


@component("reward", cite=("arXiv:2510.15110", "github.com/NVlabs/DLER"))
def within_limit(
    reward: Float[Tensor, "B"],
    correct: Float[Tensor, "B"],
    group: Int[Tensor, "B"],
    mask: Bool[Tensor, "B T"],
    truncated: Bool[Tensor, "B"],
    *,
    limit: float = 1.0,
    easy: float | None = None,
    threshold: float = 0.5,
    over: float = 0.0,
    max_tokens: int,
) -> tuple[Float[Tensor, "B"], dict[str, Tensor]]:
    """Truncation as the only length penalty: ``over`` for a row that ends beyond its limit, else the reward so far.

    A row of ``l`` tokens is within its limit if it ended by itself and ``l <= limit * max_tokens``; l counts up to the
    row's last policy token, a tool's tokens before it included, as they count against the token limit too. With
    ``easy``, problems that are solved have a tighter one: ``easy * max_tokens`` where the share of the group's rows
    with ``correct`` > 0.5 is ``threshold`` or more, the length of the rows left aside (DA-DLER).

    ``limit`` and ``easy`` in (0, 1] are shares of the token limit; ``threshold`` in [0, 1]; ``over`` in units of
    reward. An empty row is within every limit. A NaN reward stays NaN within the limit. Logs ``truegain/over_limit``,
    the share of rows beyond theirs. On a task whose answers end at the token limit by nature, all rows are truncated.

    Raises SettingError for a share outside its range. Source: Liu et al. 2025 (DLER), sections 3 and 4.

    >>> import torch
    >>> lengths, one = torch.tensor([2, 4, 4, 3]), torch.ones(4)
    >>> mask, group, ended = torch.arange(4) < lengths[:, None], torch.tensor([0, 0, 1, 1]), torch.zeros(4).bool()
    >>> right = torch.tensor([1.0, 1.0, 0.0, 0.0])
    >>> within_limit(one, right, group, mask, ended, easy=0.5, max_tokens=4)[0]
    tensor([1., 0., 1., 1.])
    """
    shares = [limit] if easy is None else [limit, easy]
    if not all(0 < share <= 1 for share in shares) or not 0 <= threshold <= 1:
        raise SettingError(
            f"within_limit: limit={limit} and easy={easy} must be above 0 and at most 1, threshold={threshold} 0 to 1"
        )
    length = lengths(mask)
    room = torch.full_like(group, int(limit * max_tokens))
    if easy is not None:
        solved = segments.mean((correct > 0.5).double(), group) >= threshold
        room = torch.where(segments.spread(solved, group), int(easy * max_tokens), room)
    beyond = truncated | (length > room)
    return torch.where(beyond, torch.full_like(reward, over), reward), {"truegain/over_limit": beyond.to(reward.dtype)}
