from __future__ import annotations

from jaxtyping import Bool, Float
from torch import Tensor

from truegain.core.component import component
from truegain.core.errors import SettingError
from truegain.methods.length._gated import lengths


@component("reward", cite=("arXiv:2503.14476", "verl DAPORewardManager"))
def overlong_penalty(
    mask: Bool[Tensor, "B T"], *, buffer: float = 0.2, factor: float = 1.0, max_tokens: int
) -> Float[Tensor, "B"]:
    """Soft penalty on completions that come near the token limit: 0 until the buffer begins, ``-factor`` at the limit.

    ``-factor * clip((l - (Lmax - Lb)) / Lb, 0, 1)`` with ``Lb = buffer * Lmax`` and l the length up to the row's last
    policy token, a tool's tokens before it included, as they count against the limit ``Lmax`` (``max_tokens``) too.

    ``buffer`` in (0, 1], a share of the limit: the paper's 4096 of 20480 tokens are 0.2. ``factor`` >= 0, in units of
    reward; added to the other rewards of the form. An empty completion costs 0. Past the limit, where an engine does
    not go, it stays at ``-factor`` as in the paper; verl's grows on. Raises SettingError for a ``buffer`` outside its
    range. Source: Yu et al. 2025 (DAPO), equation 13.

    >>> import torch
    >>> lengths = torch.tensor([3, 8, 9, 10])
    >>> overlong_penalty(torch.arange(10) < lengths[:, None], max_tokens=10)
    tensor([-0.0000, -0.0000, -0.5000, -1.0000])
    """
    if not 0 < buffer <= 1:
        raise SettingError(f"overlong_penalty: buffer={buffer}; a share of the token limit, above 0 and at most 1")
    length = lengths(mask)
    room = buffer * max_tokens
    return -factor * ((length.float() - (max_tokens - room)) / room).clamp(0, 1)
