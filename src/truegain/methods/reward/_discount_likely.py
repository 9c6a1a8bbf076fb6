from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from truegain.core import segments
from truegain.core.component import component
from truegain.core.errors import SettingError


@component("reward", cite=("arXiv:2506.02355", "github.com/AndreHe02/rewarding-unlikely-release"))
def discount_likely(
    reward: Float[Tensor, "B"],
    engine_logp: Float[Tensor, "B T"],
    group: Int[Tensor, "B"],
    mask: Bool[Tensor, "B T"],
    *,
    beta: float = 0.25,
    level: Literal["mean", "sum"] = "mean",
    ties: Literal["mean", "order"] = "mean",
) -> Float[Tensor, "B"]:
    """Discount a right answer by how likely it was among the samples of its prompt: rare ones earn more.

    ``r'_i = r_i * (1 - beta * rank_i / G)`` where r_i > 0, a modifier of the sum of rewards; other rewards stay.
    rank_i, 0 to G - 1, counts the group's rows with a smaller log-prob, as the sampler reported it: the mean over the
    row's tokens (the source's code), or with ``level="sum"`` their sum (the paper's wording allows either).

    ``beta`` in [0, 1]: 0 changes nothing, and the likeliest row keeps ``1 - beta * (G - 1) / G``. ``ties``: rows that
    are equally likely, above all equal rows, share the mean of their ranks, or take them in the order of rows as in the
    source's code. Wrong rows take part in the ranking. An empty row counts as certain. A group of one keeps its reward.
    A NaN reward stays NaN; a row whose log-prob is NaN ranks as the likeliest.

    Raises SettingError for an unknown word or a ``beta`` out of bounds.
    Source: He et al. 2025 (Rewarding the unlikely), section 4.

    >>> import torch
    >>> logp = torch.tensor([[-0.2], [-0.5], [-0.9], [-1.5]])
    >>> scores, one = torch.tensor([1.0, 1.0, 0.0, 1.0]), torch.ones(4, 1, dtype=torch.bool)
    >>> discount_likely(scores, logp, torch.zeros(4, dtype=torch.long), one)
    tensor([0.8125, 0.8750, 0.0000, 1.0000])
    """
    if not 0 <= beta <= 1 or level not in ("mean", "sum") or ties not in ("mean", "order"):
        raise SettingError(
            f"discount_likely: beta={beta} must be 0 to 1, level={level!r} mean or sum, ties={ties!r} mean or order"
        )
    likely = engine_logp.masked_fill(~mask, 0.0).sum(dim=1)
    if level == "mean":
        likely = likely / mask.sum(dim=1).clamp(min=1)
    size = segments.spread(segments.total(torch.ones_like(reward), group), group)
    factor = 1 - beta * _rank_within(likely, group, ties == "mean") / size
    return torch.where(reward > 0, reward * factor, reward)


def _rank_within(values: Tensor, group: Tensor, share_ties: bool) -> Tensor:
    """Place of each value in its group, ascending from 0, [B]; equal values in the order of rows, or at their mean."""
    order = values.argsort(stable=True)
    order = order[group[order].argsort(stable=True)]
    sorted_group, sorted_value = group[order], values[order]
    place = torch.arange(len(order), device=values.device)
    new = torch.ones_like(sorted_group, dtype=torch.bool)
    new[1:] = sorted_group[1:] != sorted_group[:-1]
    ranks = (place - torch.where(new, place, 0).cummax(dim=0).values).to(values.dtype)
    if share_ties:
        new[1:] |= sorted_value[1:] != sorted_value[:-1]
        run = new.long().cumsum(dim=0) - 1
        ranks = segments.spread(segments.mean(ranks, run), run)
    out = torch.empty_like(ranks)
    out[order] = ranks
    return out
