from __future__ import annotations

from jaxtyping import Bool, Float
from torch import Tensor

from truegain.core.component import component


@component("weight", cite=("arXiv:2503.20783", "TRL loss_type dr_grpo"))
def limit_mean(mask: Bool[Tensor, "B T"], *, max_tokens: int) -> Float[Tensor, "B T"]:
    """Dr. GRPO's constant: ``1 / (rows * max_tokens)``, over rows with at least one token.

    The gradient of a token depends neither on the length of its row nor on that of any other. ``max_tokens`` is the
    run's token limit; `sequence_sum` takes another constant. TRL counts rows without a token too: its loss is then
    ours times the share of rows that have one. All-masked: zeros.

    >>> import torch
    >>> limit_mean(torch.tensor([[True, True], [True, False]]), max_tokens=4).sum(1)
    tensor([0.2500, 0.1250])
    """
    rows = (mask.sum(dim=1) > 0).sum().clamp(min=1)
    return mask.float() / (rows * max_tokens)
