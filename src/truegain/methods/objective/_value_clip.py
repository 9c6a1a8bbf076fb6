from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from truegain.core.component import component


@component("surrogate", cite=("arXiv:1707.06347", "verl compute_value_loss"))
def value_clip(
    value: Float[Tensor, "B T"],
    old_value: Float[Tensor, "B T"],
    target: Float[Tensor, "B T"],
    *,
    cliprange: float = 0.5,
) -> tuple[Float[Tensor, "B T"], dict[str, Tensor]]:
    """Clipped squared error of a critic at each token.

    ``L = 0.5 * max((v - R)^2, (clip(v, V - c, V + c) - R)^2)`` with R the ``target`` and V the value before the update:
    a critic that has moved away from V by more than c towards R and beyond has no gradient left.

    ``cliprange`` c >= 0, in units of value (verl's 0.5); infinite: the plain squared error. The clip never lowers the
    loss. Logs the share of tokens at which it raises it. Source: the PPO baselines of Schulman et al. 2017.

    >>> import torch
    >>> loss, logs = value_clip(torch.tensor([[1.0, 0.2]]), torch.zeros(1, 2), torch.ones(1, 2))
    >>> loss.round(decimals=4), logs["vf_clip_ratio"]
    (tensor([[0.1250, 0.3200]]), tensor([[1., 0.]]))
    """
    near = value.clamp(old_value - cliprange, old_value + cliprange)
    free, held = (value - target) ** 2, (near - target) ** 2
    return 0.5 * torch.maximum(free, held), {"vf_clip_ratio": (held > free).float()}
