"""Chains whose policy says at each step whether to go on: the toy reasoner of several claims about length."""

from __future__ import annotations

import torch
from torch import Tensor


def lengths_of(go_on: Tensor, rng: torch.Generator) -> Tensor:
    """Steps of each row until it stops [B], by the logits of going on [B,T]; T at most."""
    stops = torch.rand(go_on.shape, generator=rng) > go_on.sigmoid()
    stops[:, -1] = True
    return stops.int().argmax(dim=1) + 1


def mask_of(length: Tensor, limit: int) -> Tensor:
    """True on the steps that were made [B,T]."""
    return torch.arange(1, limit + 1) <= length[:, None]


def logp_of(go_on: Tensor, length: Tensor) -> Tensor:
    """Log-probs of the choices [B,T], to go on or, at the last step, to stop; 0 where the limit stopped the row."""
    limit = go_on.shape[1]
    place = torch.arange(1, limit + 1)
    stops = torch.where(place == limit, 0.0, torch.nn.functional.logsigmoid(-go_on))
    return torch.where(place == length[:, None], stops, torch.nn.functional.logsigmoid(go_on))
