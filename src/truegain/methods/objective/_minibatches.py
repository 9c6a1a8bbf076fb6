from __future__ import annotations

import torch
from jaxtyping import Bool
from torch import Tensor

from truegain.core.component import component
from truegain.core.errors import SettingError


@component("plan", cite=("arXiv:1707.06347", "verl ppo_mini_batch_size and ppo_epochs", "TRL num_iterations"))
def minibatches(mask: Bool[Tensor, "B T"], *, count: int = 1, epochs: int = 1) -> Bool[Tensor, "N B T"]:
    """Cut the rows into ``count`` parts, one optimiser step each, and go over all of them ``epochs`` times.

    ``old_logp`` stays that of the policy before the first step, so from the second on the ratio is not 1: a trust
    region acts. Parts keep the order of rows and differ by one row at most; the samples of a prompt lie together, so
    its group is rarely cut. A part without any token is left out. Raises SettingError below 1.

    >>> import torch
    >>> minibatches(torch.ones(5, 1, dtype=torch.bool), count=2)[:, :, 0].int().tolist()
    [[1, 1, 1, 0, 0], [0, 0, 0, 1, 1]]
    """
    if count < 1 or epochs < 1:
        raise SettingError(f"minibatches: count={count}, epochs={epochs}; both are 1 or more")
    rows = torch.arange(mask.shape[0], device=mask.device)
    parts = torch.stack([torch.isin(rows, part)[:, None] & mask for part in rows.tensor_split(count)])
    return parts[parts.flatten(1).any(dim=1)].repeat(epochs, 1, 1)
