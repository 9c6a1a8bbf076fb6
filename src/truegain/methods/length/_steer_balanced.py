from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from truegain.core.component import component
from truegain.core.errors import DataError, SettingError
from truegain.methods.length._balance import Balance, coefficient


@component("sampler", cite=("arXiv:2603.12372", "github.com/yu-lin-li/ReBalance"))
def steer_balanced(
    hidden: Float[Tensor, "B D"],
    peak: Float[Tensor, "B"],
    text: Sequence[str],
    state: Mapping[str, Tensor],
    *,
    layer: int = 0,
    direction: str = "",
    sure: tuple[float, float] = (0.65, 0.9),
    restless: tuple[float, float] = (0.0005, 0.01),
    low: float = -1.0,
    hard_low: float = -2.0,
    hard_high: float = 0.1,
    constant: float | None = None,
    boundary: str = "\n\n",
    opening: str = "<think>",
    closing: str = "</think>",
    opened: bool = False,
) -> tuple[Float[Tensor, "B D"], dict[str, Tensor]]:
    r"""Push the hidden state at the end of each step away from reflection, or towards it, by how sure the step was.

    At a token whose text holds ``boundary``, inside the thought, with S the ``direction`` (from the prototype of calm
    steps to that of reflecting ones):

        c = mean over the step's tokens of the largest probability     v = (c - c of the step before)^2 / 4, 0 at first
        hidden <- hidden + u(c, v) * S

    with u as `_balance.coefficient` has it from the quartiles ``sure`` of c and ``restless`` of v: down to ``low`` at
    an unsure step, ``hard_low`` where the confidence jumps as well (overthinking), 0 at a sure one, up to
    ``hard_high`` where it stays high throughout (underthinking). ``constant`` is u itself, whatever the step (what the
    paper compares with). The end of a step belongs to it. Nothing is pushed outside of ``opening`` and ``closing``,
    each of which must be one token; ``opened`` says that the prompt opens the thought. A step before the first boundary
    counts from the opening.

    ``direction`` names the array file that `fit_balance` wrote, [D]. Raises SettingError without one or for
    numbers that do not fit, DataError for a file that does not fit the model. Source: Li et al. 2026, section 4.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as place:
    ...     np.save(f"{place}/d.npy", [1.0, -2.0])
    ...     said, peak, how = ["a\n\n", "a\n\n"], torch.tensor([0.65, 0.775]), f"{place}/d.npy"
    ...     found, state = steer_balanced(torch.zeros(2, 2), peak, said, {}, direction=how, opened=True)
    >>> found.round(decimals=3).abs(), state["before"]
    (tensor([[1.0000, 2.0000],
            [0.5000, 1.0000]]), tensor([0.6500, 0.7750], dtype=torch.float64))
    """
    balance = Balance(sure, restless, low, hard_low, hard_high)
    pushed = _direction(direction).to(hidden)
    if pushed.shape != hidden.shape[1:]:
        size = hidden.shape[1]
        raise DataError(f"steer_balanced: {direction} holds {len(pushed)} numbers, a state of the model {size}")

    def says(mark: str) -> Tensor:
        return torch.tensor([bool(mark) and mark in piece for piece in text], dtype=torch.bool, device=hidden.device)

    zero = torch.zeros(len(hidden), dtype=torch.float64, device=hidden.device)
    inside = state.get("inside", torch.full_like(zero, opened, dtype=torch.bool))
    before = state.get("before", torch.full_like(zero, float("nan")))
    opens = says(opening)
    inside = (inside | opens) & ~says(closing)
    # The opening mark is in the thought, but no step's token.
    counts = (inside & ~opens).double()
    total = torch.where(opens, zero, state.get("total", zero)) + counts * peak
    count = torch.where(opens, zero, state.get("count", zero)) + counts
    ends = inside & says(boundary) & (count > 0)
    sureness = total / count.clamp(min=1)
    variance = torch.where(before.isnan(), zero, (sureness - before) ** 2 / 4)
    amount = coefficient(sureness, variance, balance) if constant is None else torch.full_like(zero, constant)
    amount = torch.where(ends, amount, zero)
    kept = {
        "inside": inside,
        "before": torch.where(ends, sureness, torch.where(opens, torch.full_like(zero, float("nan")), before)),
        "total": torch.where(ends, zero, total),
        "count": torch.where(ends, zero, count),
    }
    return hidden + amount.to(hidden.dtype)[:, None] * pushed, kept


def _direction(file: str) -> Tensor:
    """The direction in a file, read once as long as the file stays as it is."""
    if not file:
        raise SettingError(
            "steer_balanced: direction names no file: run the whole recipe, or give the one that its study wrote, "
            "--set direction=OUT/2-study/direction.npy"
        )
    try:
        return _read(file, Path(file).stat().st_mtime_ns)
    except (OSError, ValueError) as error:
        raise DataError(f"steer_balanced: {file} holds no direction ({error}): run the study that writes it") from error


@functools.lru_cache(maxsize=8)
def _read(file: str, _changed: int) -> Tensor:
    return torch.tensor(np.load(file, allow_pickle=False), dtype=torch.float32)
