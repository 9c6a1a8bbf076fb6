from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from truegain.core.errors import SettingError
from truegain.methods.objective._ppo_clip import ppo_clip
from truegain.methods.objective._ratio_norm import ratio_norm, step_balance

WIDTHS, NOISE = (0.4, 0.3, 0.2, 0.1), (1.0, 0.7, 0.4, 0.2)


@dataclass(frozen=True)
class Paths:
    """What a policy drew, step by step: where it was [B,T,2], what it drew [B,T,2], around which means [B,T,2]."""

    place: Tensor
    drawn: Tensor
    mean: Tensor


def means(weights: Tensor, place: Tensor, width: Tensor) -> Tensor:
    """Means of all steps [B,T,2]: ``x + dt * (A_t x + c_t)``, with ``weights`` [T,2,3] holding A and c."""
    ones = torch.ones_like(place[..., :1])
    return place + width[:, None] * torch.einsum("tij,btj->bti", weights, torch.cat([place, ones], dim=2))


def walk(weights: Tensor, rows: int, width: Tensor, noise: Tensor, rng: torch.Generator) -> Paths:
    """Denoise ``rows`` points from a standard normal, with noise of deviation ``sqrt(dt) * sigma`` at each step."""
    now = torch.randn(rows, 2, generator=rng)
    place, drawn, middle = list[Tensor](), list[Tensor](), list[Tensor]()
    for t in range(len(width)):
        mean = means(weights[t : t + 1], now[:, None], width[t : t + 1])[:, 0]
        place.append(now)
        middle.append(mean)
        now = mean + width[t].sqrt() * noise[t] * torch.randn(rows, 2, generator=rng)
        drawn.append(now)
    return Paths(*(torch.stack(x, dim=1) for x in (place, drawn, middle)))


def proxy_of(points: Tensor) -> Tensor:
    """What is optimised: how far to the right, which saturates beyond the data."""
    return torch.tanh(points[:, 0])


def truth_of(points: Tensor) -> Tensor:
    """What is wanted: to the right, but on the unit circle, where the data lie."""
    return proxy_of(points) - (points.square().sum(dim=1).sqrt() - 1) ** 2


def flow_study(
    *,
    credit: Callable[..., Tensor],
    guard: bool = True,
    seed: int = 0,
    updates: int = 20,
    epochs: int = 4,
    groups: int = 16,
    samples: int = 24,
    lr: float = 2.0,
    clip: float = 0.05,
    beta: float = 0.0,
) -> dict[str, Any]:
    """Train a four-step flow of points in the plane by clipped ratios, plain or normalised, and say what they did.

    Each update draws ``groups * samples`` paths and takes ``epochs`` steps of gradient descent at ``lr`` on
    ``ppo_clip`` of the ratios of `ratio_norm`; with ``guard`` the normalised ones, each step's loss times
    `step_balance`. ``credit(reward, group, mask)`` gives advantages [B,T]. ``clip`` bounds the ratio on both sides,
    ``beta`` weighs ``(mu - mu_start)^2 / (2 sigma^2)``, averaged.

    Returns ``proxy`` and ``truth`` (means of fresh points after training), and per denoising step, over the last steps
    of all updates: ``raw_mean``, ``raw_std``, ``norm_mean``, ``norm_std`` of the log-ratios under the old policy's
    draws, ``raw_clipped`` and ``norm_clipped``, the share of draws with advantage above 0 whose ratio exceeds
    ``1 + clip``. Raises SettingError for numbers below 1. Source: GRPO-Guard 2025; Flow-GRPO for the plain ratio.
    """
    if min(updates, epochs, groups, samples) < 1:
        raise SettingError("flow_study: updates, epochs, groups and samples are 1 or more")
    rng = torch.Generator().manual_seed(seed)
    width, noise = torch.tensor(WIDTHS), torch.tensor(NOISE)
    deviation, balance = width.sqrt() * noise, step_balance(width) if guard else torch.ones(len(WIDTHS))
    weights = torch.zeros(len(WIDTHS), 2, 3, requires_grad=True)
    group = torch.arange(groups).repeat_interleave(samples)
    seen: list[dict[str, Tensor]] = []
    for _ in range(updates):
        paths = walk(weights.detach(), len(group), width, noise, rng)
        whole = torch.ones(paths.drawn.shape[:2], dtype=torch.bool)
        advantage = credit(proxy_of(paths.drawn[:, -1]), group, whole)
        for _ in range(epochs):
            mean = means(weights, paths.place, width)
            raw, normalised = ratio_norm(paths.drawn, mean, paths.mean, deviation)
            ratio = normalised if guard else raw
            loss, _ = ppo_clip(ratio, torch.zeros_like(ratio), advantage, clip_low=clip, clip_high=clip)
            penalty = (mean - paths.place) ** 2 / (2 * noise[:, None] ** 2)
            (grad,) = torch.autograd.grad((loss * balance).mean() + beta * penalty.mean(), weights)
            with torch.no_grad():
                weights -= lr * grad
        with torch.no_grad():
            seen.append(_seen(paths, means(weights, paths.place, width), deviation, advantage, clip))
    points = walk(weights.detach(), 20_000, width, noise, rng).drawn[:, -1]
    record: dict[str, Any] = {"proxy": float(proxy_of(points).mean()), "truth": float(truth_of(points).mean())}
    averages = {name: torch.stack([x[name] for x in seen]).mean(dim=0) for name in seen[0]}
    return record | {name: [float(x) for x in value] for name, value in averages.items()}


def _seen(paths: Paths, mean: Tensor, deviation: Tensor, advantage: Tensor, clip: float) -> dict[str, Tensor]:
    """Per step: mean and deviation of both log-ratios, and the share of good draws above the clip."""
    out: dict[str, Tensor] = {}
    good = advantage > 0
    for name, log in zip(("raw", "norm"), ratio_norm(paths.drawn, mean, paths.mean, deviation), strict=True):
        out |= {f"{name}_mean": log.mean(dim=0), f"{name}_std": log.std(dim=0)}
        out[f"{name}_clipped"] = ((log.exp() > 1 + clip) & good).sum(dim=0) / good.sum(dim=0).clamp(min=1)
    return out
