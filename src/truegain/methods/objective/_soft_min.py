from __future__ import annotations

import math

from jaxtyping import Float
from torch import Tensor

from truegain.core.errors import SettingError


def soft_min(values: Float[Tensor, "*rows M"], *, scale: float = 0.3) -> Float[Tensor, "*rows"]:
    """A pessimistic mean of M critics: ``-a * (logsumexp(-v / a) - ln M)``, between their minimum and their mean.

    ``scale`` a > 0, in units of value: towards 0 it is the minimum, towards infinity the mean. A NaN critic gives NaN.
    Raises SettingError for a scale that is not above 0. Source: Maity 2026 (SAFE), double soft-min critic.

    >>> import torch
    >>> soft_min(torch.tensor([1.0, 0.4])).round(decimals=4)
    tensor(0.5699)
    """
    if scale <= 0:
        raise SettingError(f"soft_min: scale={scale} must be above 0")
    return -scale * ((-values / scale).logsumexp(dim=-1) - math.log(values.shape[-1]))
