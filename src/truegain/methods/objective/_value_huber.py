from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from truegain.core.component import component
from truegain.core.errors import SettingError


@component("surrogate", cite="arXiv:2602.04651")
def value_huber(
    value: Float[Tensor, "B T"],
    old_value: Float[Tensor, "B T"],
    target: Float[Tensor, "B T"],
    *,
    cliprange: float = 0.2,
    delta: float = 0.5,
) -> Float[Tensor, "B T"]:
    """Huber loss of a critic at each token, half of it on the value held near what it was.

    ``L = 0.5 * (H(v - R) + H(clip(v, V - c, V + c) - R))``, ``H(x) = x^2 / 2`` for ``|x| <= delta``, else
    ``delta * (|x| - delta / 2)``, with R the ``target`` and V the value before the update. Unlike `value_clip`, which
    takes the larger of the two, a critic that has moved too far keeps half of its gradient.

    ``cliprange`` c >= 0 and ``delta`` > 0 in units of value; SettingError otherwise. Source: Maity 2026 (SAFE).

    >>> import torch
    >>> value_huber(torch.tensor([[1.0, 0.1]]), torch.zeros(1, 2), torch.zeros(1, 2))
    tensor([[0.1975, 0.0050]])
    """
    if cliprange < 0 or delta <= 0:
        raise SettingError(f"value_huber: cliprange={cliprange} must be 0 or more, delta={delta} above 0")
    near = value.clamp(old_value - cliprange, old_value + cliprange)

    def huber(error: Tensor) -> Tensor:
        size = error.abs()
        return torch.where(size <= delta, error**2 / 2, delta * (size - delta / 2))

    return 0.5 * (huber(value - target) + huber(near - target))
