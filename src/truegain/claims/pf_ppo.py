"""A reward that errs in the middle of its range: PPO on all samples, and on those that a filter keeps.

In the first run the proxy erred where the GOLD reward was middling, which put its errors at the ends of its own range,
against the premise; no filter was chosen or better. Now it errs where the proxy itself is middling.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor

from truegain.claims.claim import Claim
from truegain.claims.updates import loss_on, step_on
from truegain.core import arithmetic
from truegain.core.batch import Batch
from truegain.core.forms import Train
from truegain.methods.evaluation import reward_fit
from truegain.methods.reward import extreme_ranks
from truegain.recipes.pf_ppo import pf_ppo

PROMPTS, ARMS, SAMPLES, UPDATES, LR, NOISE = 32, 20, 5, 100, 0.1, 0.5
Filter = Literal["all", "best_worst", "best_random", "best"]
FILTERS: tuple[Filter, ...] = ("all", "best_worst", "best_random", "best")


def _bandit(rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """Gold and proxy rewards [prompts, arms]: they differ by up to NOISE deviations where the proxy is near 1/2."""
    proxy = torch.rand(PROMPTS, ARMS, generator=rng)
    error = NOISE * torch.randn(PROMPTS, ARMS, generator=rng) * (4 * proxy * (1 - proxy)) ** 2
    return proxy + error, proxy


def _trained(form: Train, gold: Tensor, proxy: Tensor, seed: int) -> float:
    """Mean gold reward of the policy after training on the proxy; its critic knows the mean proxy exactly."""
    rng = torch.Generator().manual_seed(seed)
    logits = torch.zeros(PROMPTS, ARMS, requires_grad=True)
    optimiser = torch.optim.Adam([logits], lr=LR, betas=(0.9, 0.99))
    group = torch.arange(PROMPTS).repeat_interleave(SAMPLES)
    for update in range(UPDATES):
        chance = logits.detach().softmax(1)
        arms = torch.multinomial(chance, SAMPLES, replacement=True, generator=rng).flatten()
        columns = Batch(
            mask=torch.ones(len(group), 1, dtype=torch.bool),
            group=group,
            key=torch.arange(len(group)) + len(group) * update,
            correct=proxy[group, arms],
            old_logp=chance.log()[group, arms, None],
            old_value=(chance * proxy).sum(1)[group, None],
        )
        facts = {"progress": 0.0, "step_index": update, "max_tokens": 1}
        whole = arithmetic.reward_stage(form, columns, facts)[0]
        batch, rows, _ = arithmetic.select_stage(form, whole, facts)
        optimiser.zero_grad()
        logp = logits.log_softmax(1)[group[rows], arms[rows], None]
        loss_on(form, step_on(form, batch), logp).backward()
        optimiser.step()
    return float((logits.detach().double().softmax(1) * gold).sum(1).mean())


def _fit(keep: Filter, gold: Tensor, proxy: Tensor, seed: int) -> float:
    """R^2 of gold on the proxy over what the filter keeps of the start's samples, before training."""
    rng = torch.Generator().manual_seed(seed + 5000)
    arms = torch.randint(ARMS, (PROMPTS, 40), generator=rng)
    found, real = proxy.gather(1, arms).flatten(), gold.gather(1, arms).flatten()
    group = torch.arange(len(found)) // SAMPLES
    kept = extreme_ranks(found, group, torch.arange(len(found)), keep=keep, step_index=0)
    return reward_fit(found.double().numpy(), real.double().numpy(), kept.double().numpy())


def _one_seed(seed: int) -> Mapping[str, float]:
    gold, proxy = _bandit(torch.Generator().manual_seed(seed))
    fits = {keep: _fit(keep, gold, proxy, seed) for keep in FILTERS}
    ends = {keep: _trained(pf_ppo(keep=keep), gold, proxy, seed) for keep in FILTERS}
    # One sample per prompt has no range to correlate over, and the paper drops it: the choice is between the others.
    best = max(FILTERS[:3], key=lambda keep: fits[keep])
    out = {"chosen by R^2": ends[best]}
    return out | {f"{k}: gold": ends[k] for k in FILTERS} | {f"{k}: R^2": fits[k] for k in FILTERS}


CLAIM = Claim(
    name="pf-ppo",
    system="pf-ppo",
    states="On a bandit whose proxy errs in the middle of its own range, PPO on what the filter with the largest "
    "R^2 keeps (of all, best and worst, best and random) ends after 100 updates of 5 samples per prompt with a higher "
    "gold reward than PPO on all samples; the best alone stands beside it.",
    unit="gold reward",
    one_seed=_one_seed,
    effect=lambda arms: arms["chosen by R^2"] - arms["all: gold"],
    threshold=0.0,
    seeds=10,
)
