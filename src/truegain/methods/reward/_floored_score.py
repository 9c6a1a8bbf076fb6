from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from truegain.core.component import component


@component("reward", cite=("arXiv:2601.21912", "github.com/lilinwz/ProRAG"))
def floored_score(score: Float[Tensor, "B"], *, floor: float = 0.2, scale: float = 2.0) -> Float[Tensor, "B"]:
    """``scale * score``, and 0 for a score below ``floor``: a few shared words are no partial answer.

    ``score`` in [0, 1], an F1 in the paper; ``floor`` in its units, a score at the floor counts. A NaN stays one.
    Source: ProRAG 2026, the outcome reward, whose format term is another reward beside it.

    >>> import torch
    >>> floored_score(torch.tensor([0.1, 0.2, 0.6, 1.0]))
    tensor([0.0000, 0.4000, 1.2000, 2.0000])
    """
    return torch.where(score < floor, torch.zeros_like(score), scale * score)
