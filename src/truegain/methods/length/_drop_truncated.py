from __future__ import annotations

from jaxtyping import Bool, Float
from torch import Tensor

from truegain.core.component import component


@component("weight", cite=("arXiv:2503.14476", "TRL mask_truncated_completions"))
def drop_truncated(mask: Bool[Tensor, "B T"], truncated: Bool[Tensor, "B"]) -> Float[Tensor, "B T"]:
    """Overlong filtering: 0 on rows that ended at the token limit, 1 on the tokens of the others.

    A factor beside another weight. The dropped rows keep their place in the baseline of their group and in the other
    weight's denominator, so that the others weigh what they did before. All rows truncated: zeros, no step.
    Source: Yu et al. 2025 (DAPO), section 3.4.

    >>> import torch
    >>> drop_truncated(torch.ones(2, 2, dtype=torch.bool), torch.tensor([False, True]))
    tensor([[1., 1.],
            [0., 0.]])
    """
    return (mask & ~truncated[:, None]).float()
