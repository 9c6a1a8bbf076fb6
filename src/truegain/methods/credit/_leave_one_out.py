from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from truegain.core import segments
from truegain.core.component import component
from truegain.core.errors import SettingError
from truegain.methods.credit._shared import centred_within, over_tokens


@component("credit", cite=("arXiv:2402.14740", "verl compute_rloo_outcome_advantage", "TRL RLOOTrainer"))
def leave_one_out(
    reward: Float[Tensor, "B"],
    group: Int[Tensor, "B"],
    mask: Bool[Tensor, "B T"],
    *,
    singleton: Literal["zero", "raw"] = "zero",
) -> Float[Tensor, "B T"]:
    """Reward minus the mean reward of the row's siblings, the same for every token: an unbiased baseline.

    ``A_i = r_i - sum_{j != i} r_j / (n - 1) = n / (n - 1) * (r_i - mean_g)`` over the n rows of i's group g.

    ``singleton``: what a group of one row gets: 0 (TRL), or its raw reward (verl). Equal rewards give exactly 0. Rows
    without a token count as siblings and get nothing. A NaN reward makes its group NaN, which the loop refuses before
    an update. TRL's ``normalize_advantages`` is `whiten` after it, with ``per="row", eps=1e-4, eps_in="deviation"``.

    Raises SettingError for an unknown ``singleton``. Source: Ahmadian et al. 2024, section 3.3 (Kool et al. 2019).

    >>> import torch
    >>> scores, one = torch.tensor([1.0, 0.0, 0.0, 1.0]), torch.ones(4, 1, dtype=torch.bool)
    >>> leave_one_out(scores, torch.zeros(4, dtype=torch.long), one).flatten()
    tensor([ 0.6667, -0.6667, -0.6667,  0.6667])
    """
    if singleton not in ("zero", "raw"):
        raise SettingError(f"leave_one_out: singleton={singleton!r}; it is zero or raw")
    size = segments.spread(segments.total(torch.ones_like(reward), group), group)
    advantage = centred_within(reward, group) * size / (size - 1).clamp(min=1)
    if singleton == "raw":
        advantage = torch.where(size == 1, reward, advantage)
    return over_tokens(advantage, mask)
