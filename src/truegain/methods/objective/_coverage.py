from __future__ import annotations

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from truegain.core.component import component
from truegain.core.errors import SettingError


@component("surrogate", cite=("arXiv:2502.07154", "allanraventos/refine loss_functions.py dco"))
def coverage(
    logp: Float[Tensor, "B T"], mask: Bool[Tensor, "B T"], *, tries: int = 64
) -> tuple[Float[Tensor, "B T"], dict[str, Tensor]]:
    """Likelihood for a model that has ``tries`` samples: rows that so many tries find anyway teach little.

    With ``p = exp(sum_t logp)`` the probability of the whole row and N = ``tries``:

        L = -sg[F] * logp,   F = N p (1 - p)^(N-1) / (1 - (1 - p)^N)

    Summed over the row (`sequence_sum`) its gradient is that of ``-log(1 - (1 - p)^N)``, minus the log of pass@N. F is
    1 at p = 0, falls in p and in N, and is 0 at p = 1; N = 1 is maximum likelihood. The sum over the tokens is not
    divided by their number: p is that of the whole row. A row without a token has p = 1.

    Logs ``truegain/coverage_factor``, F of each row. Raises SettingError for ``tries`` below 1.
    Source: Chen et al. 2025, direct coverage optimisation.

    >>> import torch
    >>> rows = torch.tensor([[0.001], [0.05], [0.3], [0.9]], dtype=torch.float64)
    >>> coverage(rows.log(), rows > 0, tries=16)[1]["truegain/coverage_factor"].round(decimals=4).tolist()
    [0.9925, 0.662, 0.0229, 0.0]
    """
    if tries < 1:
        raise SettingError(f"coverage: tries={tries}; it is 1 or more")
    surprise = -logp.detach().masked_fill(~mask, 0.0).sum(dim=1).clamp(max=0.0)
    factor = _factor(surprise, tries)
    return -factor[:, None] * logp, {"truegain/coverage_factor": factor}


def _factor(surprise: Tensor, tries: int) -> Tensor:
    """F of rows with ``-log p`` of ``surprise`` >= 0 nats: finite and exact from p = 0 to p = 1."""
    if tries == 1:
        return torch.ones_like(surprise)
    p = (-surprise).exp()
    # log(1 - p), each form where it does not cancel.
    log_miss = torch.where(surprise < math.log(2), (-torch.expm1(-surprise)).log(), torch.log1p(-p))
    found = tries * p * ((tries - 1) * log_miss).exp() / -torch.expm1(tries * log_miss)
    # Below, p**2 is lost in rounding: F is 1 to that precision, and at p = 0 the quotient is 0 / 0.
    return torch.where(tries * p < torch.finfo(p.dtype).eps, torch.ones_like(p), found)
