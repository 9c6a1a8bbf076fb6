from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from truegain.core.component import component
from truegain.core.errors import SettingError


@component("credit", cite=("arXiv:2501.03262", "verl masked_whiten", "TRL RLOOTrainer normalize_advantages"))
def whiten(
    advantage: Float[Tensor, "B T"],
    mask: Bool[Tensor, "B T"],
    *,
    per: Literal["token", "row"] = "token",
    mean: Literal["remove", "keep", "scale"] = "remove",
    ddof: int = 1,
    eps: float = 1e-8,
    eps_in: Literal["variance", "deviation"] = "variance",
) -> Float[Tensor, "B T"]:
    """Advantages of the whole batch with mean 0 and variance 1: a modifier of the credit before it.

    ``A' = (A - mean) / sqrt(var + eps)``, statistics over every token of the mask.

    ``per="token"`` lets a long row count more (verl): the mean that is removed follows the lengths, and over few rows
    it may outweigh the advantages of a group whose rewards hardly differ. With ``"row"`` every row that has tokens
    counts as one: ``mean = 1/N sum_i mean_t A_it``, ``var = 1/(N - ddof) sum_i mean_t (A_it - mean)^2``; for one
    advantage per row these are the statistics over rows (TRL).
    ``mean="keep"`` adds the mean back, unscaled (verl's ``shift_mean=False``); ``"scale"`` only divides by the
    deviation. ``ddof``: 1 is the unbiased variance (both libraries). ``eps`` >= 0 goes into the variance (verl 1e-8) or
    is added to the deviation (TRL 1e-4).
    Fewer than two tokens (rows), where verl raises, have no variance: it is taken as 0. So it is for equal advantages:
    they become exactly 0, or stay as they are if the mean is not removed. A NaN makes the batch NaN, which the loop
    refuses before an update.

    Raises SettingError for an unknown word. Source: Hu et al. 2025 (REINFORCE++), section 3.

    >>> import torch
    >>> given = torch.tensor([[1.0, 1.0, 1.0], [-1.0, -1.0, 0.0]])
    >>> whiten(given, torch.tensor([[True, True, True], [True, True, False]])).round(decimals=4)
    tensor([[ 0.7303,  0.7303,  0.7303],
            [-1.0954, -1.0954,  0.0000]])
    """
    legal = per in ("token", "row") and mean in ("remove", "keep", "scale") and eps_in in ("variance", "deviation")
    if not legal:
        raise SettingError(f"whiten: per={per!r}, mean={mean!r}, eps_in={eps_in!r}; see its docstring for the choices")
    share = mask.to(advantage.dtype)
    if per == "row":
        share = share / share.sum(dim=1, keepdim=True).clamp(min=1)
    count = share.sum() if per == "token" else mask.any(dim=1).sum()
    value = advantage.masked_fill(~mask, 0.0)
    middle = (value * share).sum() / count.clamp(min=1)
    chosen = advantage[mask]
    if not bool((chosen != chosen[:1]).any()):
        # The mean of equal numbers may be off by rounding, and a deviation near 0 would magnify that.
        return torch.zeros_like(value) if mean == "remove" else value
    variance = ((value - middle) ** 2 * share).sum() / (count - ddof).clamp(min=1)
    scale = (variance + eps).rsqrt() if eps_in == "variance" else 1 / (variance.sqrt() + eps)
    out = value * scale if mean == "scale" else (value - middle) * scale
    return (out + middle if mean == "keep" else out).masked_fill(~mask, 0.0)
