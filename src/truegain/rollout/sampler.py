"""From logits to tokens: the one sampling rule of all engines."""

from __future__ import annotations

import torch
from torch import Tensor

from truegain.core.errors import SettingError
from truegain.core.types import Sampling

_NOTHING = float("-inf")
# A large vocabulary is summed in blocks first: a running sum over all of it takes a card longer than the head's product
_BLOCK = 512
_LARGE = 8 * _BLOCK


def check(sampling: Sampling) -> None:
    """Raise SettingError for a setting out of bounds."""
    bounds = (
        ("max_tokens", sampling.max_tokens >= 0, "0 or more"),
        ("temperature", 0 <= sampling.temperature < float("inf"), "0 (greedy) or more"),
        ("top_k", sampling.top_k >= 0, "0 (off) or more"),
        ("top_p", 0 < sampling.top_p <= 1, "above 0 and at most 1 (off)"),
        ("stop", all(sampling.stop), "free of empty strings"),
    )
    for name, fine, legal in bounds:
        if not fine:
            raise SettingError(f"sampling: {name} must be {legal}, not {getattr(sampling, name)!r}")


def filtered(logits: Tensor, sampling: Sampling) -> Tensor:
    """Logits [B, V] of the sampling distribution, float32: divided by the temperature, then top-k, then top-p.

    Top-k keeps the k largest (and all that tie with the k-th). Top-p keeps the smallest set of the most likely tokens
    whose probability, after top-k, reaches p; among equals those of the lower id come first. Temperature must not
    be 0.
    """
    scores = logits.float()
    if sampling.temperature != 1.0:
        scores = scores / sampling.temperature
    if 0 < sampling.top_k < scores.shape[-1]:
        least = scores.topk(sampling.top_k, dim=-1).values[..., -1:]
        scores = scores.masked_fill(scores < least, _NOTHING)
    if sampling.top_p < 1.0:
        ordered, order = scores.softmax(-1).sort(dim=-1, descending=True, stable=True)
        before = ordered.cumsum(-1) - ordered
        drop = torch.zeros_like(before, dtype=torch.bool).scatter(-1, order, before >= sampling.top_p)
        scores = scores.masked_fill(drop, _NOTHING)
    return scores


def draw(logits: Tensor, uniform: Tensor, sampling: Sampling) -> tuple[Tensor, Tensor]:
    """One token per row of logits [B, V]: ids [B] and their log-probs [B] under the sampling distribution.

    The token is the first whose cumulative probability exceeds ``uniform`` [B], so a row depends on nothing but its
    own logits and its own number. Temperature 0 takes the largest logit (the lowest id among equals); the
    distribution then has one point, and the log-prob is 0. A row with NaN logits gives a NaN log-prob.
    """
    if sampling.temperature == 0:
        best, ids = logits.float().max(-1)
        return ids, best * 0.0
    p = filtered(logits, sampling).softmax(-1)
    ids = _inverse(p, uniform[:, None])
    return ids[:, 0], p.gather(-1, ids)[:, 0].log()


def _inverse(p: Tensor, uniform: Tensor) -> Tensor:
    """First places [B, 1] at which the running sum of p [B, V] exceeds uniform [B, 1] times the whole sum."""
    if p.shape[-1] < _LARGE:
        reached = p.cumsum(-1)
        return _exceeds(reached, uniform * reached[:, -1:])
    whole, rest = p.shape[-1] // _BLOCK, p.shape[-1] % _BLOCK
    sums = p[:, : whole * _BLOCK].unflatten(-1, (whole, _BLOCK)).sum(-1)
    if rest:
        sums = torch.cat((sums, p[:, -rest:].sum(-1, keepdim=True)), -1)
    reached = sums.cumsum(-1)
    target = uniform * reached[:, -1:]
    block = _exceeds(reached, target)
    place = block * _BLOCK + torch.arange(_BLOCK, device=p.device)
    inside = p.gather(-1, place.clamp(max=p.shape[-1] - 1)).masked_fill(place >= p.shape[-1], 0.0)
    before = torch.where(block > 0, reached.gather(-1, (block - 1).clamp(min=0)), 0.0)
    return place.gather(-1, _exceeds(inside.cumsum(-1), target - before)).clamp_(max=p.shape[-1] - 1)


def _exceeds(reached: Tensor, target: Tensor) -> Tensor:
    """First places [B, 1] of running sums [B, n] above targets [B, 1], which rounding must not lift to the whole sum:
    the place would then be one of probability 0."""
    whole = reached[:, -1:]
    target = torch.minimum(target, torch.nextafter(whole, torch.zeros_like(whole)))
    return torch.searchsorted(reached, target, right=True).clamp_(max=reached.shape[-1] - 1)
