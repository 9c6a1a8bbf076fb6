"""A run that is guarded: which checkpoint does the gold-gap guard leave behind, and which does the proxy?

One run of RL against one learned reward, in a world whose truth is known. At each look as many fresh texts are scored
by gold, for the guard, as by the proxy, for whoever has no guard. Both choose among the same checkpoints; the run ends
at the guard's alarm. What is chosen is judged by gold on texts that neither saw.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from truegain.core import arithmetic
from truegain.core.forms import Train
from truegain.lab.optimise import columns, policies
from truegain.lab.proxies import Proxies
from truegain.methods.guard import GapLook, judge_look

BOUNDS = (-2.0, 4.0)
"""Gold, in deviations of the base policy's texts, is cut off here and scaled to [0, 1]: the guard's scores."""
JUDGED = 8192


@dataclass(frozen=True)
class Guarded:
    """The looks of a run until its alarm, and the true gold of what was chosen, in deviations of the base's texts.

    ``guard`` and ``proxy`` are the steps that each chooses, ``guard_gold`` and ``proxy_gold`` what these are worth;
    ``whole`` and ``whole_gold`` are the proxy's choice from the whole run, as if there were no guard.
    """

    looks: tuple[GapLook, ...]
    guard: int
    proxy: int
    whole: int
    guard_gold: float
    proxy_gold: float
    whole_gold: float


def guarded(
    proxies: Proxies, form: Train, *, steps: int, samples: int, lr: float, look_every: int, texts: int, level: float
) -> Guarded:
    """Optimise ``form`` under the guard's eyes; ``texts`` are scored per look, by gold and by the proxy."""
    kept: dict[int, Tensor] = {}
    proxy: dict[int, float] = {}
    looks: list[GapLook] = []
    scores = np.empty((0, texts))
    for step, logits in _looked_at(proxies, form, steps, samples, lr, look_every):
        kept[step] = logits
        proxy[step], gold = _scored(proxies, form, logits, step, texts)
        if not (looks and looks[-1].alarm):
            looks.append(judge_look(looks, step, gold, proxy[step], scores, level=level))
            scores = np.concatenate([scores, gold[None]])
    end = looks[-1].step
    chosen = (
        looks[-1].best,
        max((step for step in proxy if step <= end), key=lambda step: proxy[step]),
        max(proxy, key=lambda step: proxy[step]),
    )
    return Guarded(tuple(looks), *chosen, *(_worth(proxies, kept[step]) for step in chosen))


def _looked_at(
    proxies: Proxies, form: Train, steps: int, samples: int, lr: float, every: int
) -> Iterator[tuple[int, Tensor]]:
    for step, logits in policies(proxies, form, members=1, steps=steps, samples=samples, lr=lr):
        if step % every == 0 or step == steps:
            yield step, logits.clone()


def _scored(proxies: Proxies, form: Train, logits: Tensor, step: int, count: int) -> tuple[float, np.ndarray]:
    """The proxy's mean, and the guard's gold scores in [0, 1], on texts of their own."""
    world = proxies.world
    draws = [torch.Generator().manual_seed((world.seed * 1009 + 21 + n) * 100_003 + step) for n in range(2)]
    seen, guarded = (world.sample(logits, count, rng) for rng in draws)
    batch, _ = arithmetic.reward_stage(form, columns(proxies, seen, world.logp(logits, seen), 1), {})
    low, high = BOUNDS
    gold = ((world.gold(guarded).clamp(low, high) - low) / (high - low)).double().numpy()
    return float(batch["reward_parts"][:, 0].mean()), gold


def _worth(proxies: Proxies, logits: Tensor) -> float:
    """Gold on texts that no look saw, not cut off."""
    world = proxies.world
    rng = torch.Generator().manual_seed(world.seed * 1009 + 23)
    return float(world.gold(world.sample(logits, JUDGED, rng)).mean())
