from __future__ import annotations

import math

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from truegain.core import segments
from truegain.core.component import component
from truegain.core.errors import SettingError
from truegain.methods.length._gated import lengths, squashed


@component("reward", cite=("arXiv:2505.18086", "arXiv:2502.04463"))
def relative_length(
    correct: Float[Tensor, "B"],
    group: Int[Tensor, "B"],
    mask: Bool[Tensor, "B T"],
    *,
    alpha: float = 0.2,
    share: float = 1.0,
    ddof: int = 0,
    eps: float = 1e-7,
) -> tuple[Float[Tensor, "B"], dict[str, Tensor]]:
    """Right answers pay for being longer than their group's other right ones, where the problem is solved well enough.

        -alpha * sigmoid((l_i - mu_g) / (sd_g + eps))    for a right row of a penalised group, else 0

    with l the length up to the row's last policy token and mu, sd over the group's right rows. Penalised are the
    ``ceil(share * groups)`` groups of the batch with the highest accuracy, ties by group number: ``share`` 1 is the
    uniform penalty of Arora and Zanette, a small one GRPO-lambda's, which leaves problems that are still being learned
    alone; 0 is no penalty. Add it to an outcome of 1 and 0: a right row then has between ``1 - alpha`` and 1. One right
    row, and equal lengths, cost ``alpha / 2``. A row is right from ``correct`` 0.5 on.

    ``alpha`` >= 0 in units of reward; ``share`` in [0, 1]; ``ddof`` 0 is the population's deviation, 1 the sample's.
    Logs ``truegain/penalised_groups``, their share. A group without a right row can be penalised and pays nothing.
    Raises SettingError for knobs out of bounds. Source: Dai et al. 2025 (GRPO-lambda); Arora and Zanette 2025.

    >>> import torch
    >>> right, long = torch.tensor([1.0, 1.0, 1.0, 0.0]), torch.tensor([100, 200, 300, 50])
    >>> relative_length(right, torch.zeros(4, dtype=torch.long), torch.arange(300) < long[:, None])[0].round(decimals=4)
    tensor([-0.0454, -0.1000, -0.1546,  0.0000])
    """
    if alpha < 0 or not 0 <= share <= 1:
        raise SettingError(f"relative_length: alpha={alpha} must be 0 or more, share={share} from 0 to 1")
    right = correct >= 0.5
    accuracy = segments.mean(right.double(), group)
    # 0.2 * 15 is a little more than 3 in floating point, and must not count as 4.
    count = math.ceil(share * accuracy.numel() - 1e-9)
    best = accuracy.argsort(descending=True, stable=True)[:count]
    penalised = right & torch.isin(group, best)
    paid = torch.where(penalised, -alpha * squashed(lengths(mask), right, group, ddof, eps), 0.0)
    return paid.to(correct.dtype), {"truegain/penalised_groups": torch.tensor(count / max(accuracy.numel(), 1))}
