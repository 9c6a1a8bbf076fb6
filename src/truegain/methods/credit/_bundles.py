"""Bundles of prompts: groups drawn together by lot, whose j-th rows make one paper."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from truegain.core import segments


@dataclass(frozen=True)
class Bundles:
    """What `bundles_of` found. ``paper[B]`` numbers the paper of each row, -1 for a row beyond the smallest group.

    Paper j of bundle b has the number ``b * width + j``. ``score[N,width]`` holds the papers' scores, NaN past a
    bundle's last; ``members[N,width]`` how many rows a paper has.
    """

    paper: Tensor
    score: Tensor
    members: Tensor


def bundles_of(reward: Tensor, group: Tensor, key: Tensor, size: int) -> Bundles:
    """Bundle ``size`` groups each. A paper's score is ``size`` times the mean reward of its rows.

    That is their sum in a full bundle, and comparable with it in the last one, which may hold fewer groups. Groups are
    ordered by their smallest key and the rows of a group by theirs: keys are hashes, so this is a draw by lot that
    neither the order of rows nor the numbers of groups can change. Rewards break ties of equal keys.
    """
    group, one = segments.dense(group), torch.ones_like(reward)
    sizes = segments.total(torch.ones_like(group), group)
    if not len(group):
        none = reward.new_zeros(0, 0)
        return Bundles(torch.zeros_like(group), none, none)
    by_key = torch.argsort(reward, stable=True)
    by_key = by_key[torch.argsort(key[by_key], stable=True)]
    in_groups = by_key[torch.argsort(group[by_key], stable=True)]
    rank, place = torch.empty_like(group), torch.empty_like(group)
    rank[by_key] = torch.arange(len(group), device=group.device)
    place[in_groups] = torch.arange(len(group), device=group.device) - (sizes.cumsum(0) - sizes)[group[in_groups]]
    first = segments.total(torch.where(place == 0, rank, 0), group)
    number = torch.argsort(torch.argsort(first))  # of each group, in the order of its first row
    bundle, count, width = number // size, -(-len(sizes) // size), int(sizes.max())
    # The smallest group of a bundle decides how many papers it has.
    smallest = torch.full((count * size,), width, device=group.device, dtype=sizes.dtype)
    smallest[number] = sizes
    papers = smallest.reshape(count, size).amin(dim=1)
    paper = torch.where(place < papers[bundle][group], bundle[group] * width + place, -1)
    members = segments.total(one, paper, count * width)
    mean = segments.total(reward, paper, count * width) / members
    return Bundles(paper, (size * mean).reshape(count, width), members.reshape(count, width))
