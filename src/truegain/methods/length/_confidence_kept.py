from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from truegain.core.component import component
from truegain.core.errors import SettingError


@component("reward", cite="arXiv:2601.04973")
def confidence_kept(
    read_answer: Float[Tensor, "B"], read_trace: Float[Tensor, "B"], group: Int[Tensor, "B"], *, beta: float = 0.1
) -> Float[Tensor, "B"]:
    """Reward a shortened trace by how sure of the answer it leaves a reader, and by how natural it is to it.

        r = read_answer + beta * read_trace

    Both are means of log-probs, so each is 0 or less and no length is rewarded as such: a filler line that the reader
    expects costs little, but a necessary one costs the answer. ``beta`` >= 0 weighs the trace; the paper ablates it and
    its value is not known. Where one that counts is NaN (an empty trace, no reference answer) the row gets the smallest
    reward of its group, 0 if the group has none. Raises SettingError for a negative ``beta``.
    Source: ConMax 2026, equation 6; the rule for empty traces is ours.

    >>> import torch
    >>> nan, group = float("nan"), torch.zeros(3, dtype=torch.long)
    >>> confidence_kept(torch.tensor([-0.2, -0.6, -0.1]), torch.tensor([-1.0, -2.0, nan]), group)
    tensor([-0.3000, -0.8000, -0.8000])
    """
    if not beta >= 0:
        raise SettingError(f"confidence_kept: beta={beta} must be 0 or more")
    value = read_answer + beta * read_trace if beta else read_answer
    known = value.isfinite()
    size = int(group.max()) + 1 if len(group) else 0
    worst = torch.full((size,), float("inf"), dtype=value.dtype, device=value.device)
    worst = worst.scatter_reduce(0, group, torch.where(known, value, worst.new_full((), float("inf"))), reduce="amin")
    worst = torch.where(worst.isfinite(), worst, torch.zeros_like(worst))
    return torch.where(known, value, worst[group])
