from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor


def begin_anew(base: Mapping[str, Tensor]) -> dict[str, Any]:
    """Go back to the weights that a recipe began with: what was trained in between made data, and is done.

    >>> import torch
    >>> begin_anew({"w": torch.zeros(1)})
    {'weights': {'w': tensor([0.])}}
    """
    return {"weights": dict(base)}
