from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from truegain.core import segments
from truegain.core.component import component
from truegain.core.errors import SettingError
from truegain.methods.reward._draws import unit_draws


@component("select", cite=("arXiv:2409.06957", "swtheing/PF-PPO-RLHF replay_buffer.py"))
def extreme_ranks(
    reward: Float[Tensor, "B"],
    group: Int[Tensor, "B"],
    key: Int[Tensor, "B"],
    *,
    keep: Literal["best_worst", "best_random", "best", "all"] = "best_worst",
    seed: int = 0,
    step_index: int,
) -> Float[Tensor, "B"]:
    """Keep the rows of a prompt whose rewards can be trusted: its best and its worst, or its best and a random other.

    ``best_worst`` (BW) keeps two rows of a group of two or more, ``best_random`` (BR) the best and one of the others,
    each as likely, ``best`` (BoN) the best alone, ``all`` every row. A lone row is kept. The others leave the batch.
    Of equal rewards the row with the smaller ``key`` counts as the better one; which other row is drawn depends on
    ``seed``, the step and the row's key alone. A NaN reward ranks as the best, so that it is kept and the loop refuses
    it.

    Raises SettingError for an unknown word. Source: Shen and Zhang 2024 (PF-PPO), section 4.

    >>> import torch
    >>> scores, one = torch.tensor([0.1, 0.9, 0.4, 0.5, -0.3]), torch.zeros(5, dtype=torch.long)
    >>> extreme_ranks(scores, one, torch.arange(5), step_index=0)
    tensor([0., 1., 0., 0., 1.])
    """
    if keep not in ("best_worst", "best_random", "best", "all"):
        raise SettingError(f"extreme_ranks: keep={keep!r}; it is best_worst, best_random, best or all")
    if keep == "all":
        return torch.ones_like(reward)
    kept = _first_of(group, key, -reward.nan_to_num(nan=float("inf")))
    others = torch.where(kept, -1, group)
    if keep == "best_worst":
        # Keys turned round, so that of equal rewards the row with the largest key is the worst.
        kept = kept | _first_of(others, -key, reward.nan_to_num(nan=float("inf")))
    elif keep == "best_random":
        kept = kept | _first_of(others, key, unit_draws(key, seed, step_index))
    return kept.to(reward.dtype)


def _first_of(group: Tensor, key: Tensor, order: Tensor) -> Tensor:
    """Whether the row is its group's first by ``order``, ties by ``key``, [B] bool; never for group -1."""
    rank = key.argsort(stable=True)
    rank = rank[order[rank].argsort(stable=True)]
    place = torch.empty_like(rank)
    place[rank] = torch.arange(len(rank), device=rank.device)
    least = torch.full((segments.count(group) + 1,), len(rank), device=rank.device)
    least = least.scatter_reduce(0, group % len(least), place, reduce="amin")
    return (place == least[group % len(least)]) & (group >= 0)
