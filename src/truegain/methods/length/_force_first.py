from __future__ import annotations

from jaxtyping import Float, Int
from torch import Tensor

from truegain.core.component import component
from truegain.core.errors import SettingError


@component("sampler", cite="arXiv:2410.09918")
def force_first(logits: Float[Tensor, "B V"], history: Int[Tensor, "B t"], *, token: int = -1) -> Float[Tensor, "B V"]:
    """Have every completion begin with a token: the answer's mark to think fast, the thought's to think slowly.

    ``token`` is its id; -1 leaves the model its choice. Raises SettingError for an id that the model does not have.
    Source: Su et al. 2024 (Dualformer), section 3.3.

    >>> import torch
    >>> force_first(torch.zeros(1, 3), torch.zeros(1, 0, dtype=torch.long), token=2)
    tensor([[-inf, -inf, 0.]])
    """
    if not -1 <= token < logits.shape[1]:
        raise SettingError(f"force_first: token={token} is no id of the model's {logits.shape[1]}; -1 forces nothing")
    if token < 0 or history.shape[1]:
        return logits
    out = logits.new_full(logits.shape, float("-inf"))
    out[:, token] = logits[:, token]
    return out
