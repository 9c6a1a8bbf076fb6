"""Two rewards that are proxies up to a threshold: multipliers hold them there, fixed weights go beyond.

In the first run the policy had a logit per arm and the KL weighed 0.2: fixed weights never went beyond a threshold, and
600 updates on 16 samples of 441 arms did not reach one. Now the policy is linear in the two rewards, and the KL weighs
0.02, at which fixed weights do go beyond.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from truegain.claims.claim import Claim
from truegain.claims.updates import loss_on, one_term, steered, step_on
from truegain.core import arithmetic
from truegain.core.batch import Batch
from truegain.core.forms import Train, members
from truegain.methods import credit
from truegain.recipes.constrained_rlhf import constrained_rlhf

SIDE, PROMPTS, SAMPLES, UPDATES, LR, BETA = 21, 16, 16, 400, 0.2, 0.02
GRID = torch.linspace(0, 1, SIDE)
POINTS = torch.stack([GRID.repeat_interleave(SIDE), GRID.repeat(SIDE)], dim=1)  # both rewards of each arm


def _start(rng: torch.Generator) -> Tensor:
    """Logits of a policy that scores about 0.3 on both rewards, a little off for each prompt."""
    centre = 0.3 + 0.05 * torch.randn(PROMPTS, 1, 2, generator=rng)
    return -((POINTS - centre) ** 2).sum(2) / (2 * 0.15**2)


def _gold(means: Tensor, thresholds: Tensor) -> float:
    """What is wanted: each mean counts up to its threshold, and twice against what is beyond."""
    return float((means - 2 * (means - thresholds).clamp(min=0)).sum())


def _means(form: Train, start: Tensor, rng: torch.Generator) -> Tensor:
    """Both mean rewards after training, averaged over the last tenth of the updates."""
    tilt, group = torch.zeros(2, requires_grad=True), torch.arange(PROMPTS).repeat_interleave(SAMPLES)
    optimiser = torch.optim.Adam([tilt], lr=LR, betas=(0.9, 0.99))
    fold = next((member() for member in members(form.fold)), None)
    state = None if fold is None else fold.init()
    found: list[Tensor] = []
    for update in range(UPDATES):
        logits = start + POINTS @ tilt
        arms = torch.multinomial(logits.detach().softmax(1), SAMPLES, replacement=True, generator=rng).flatten()
        columns = Batch(
            mask=torch.ones(len(group), 1, dtype=torch.bool),
            group=group,
            correct=POINTS[arms, 0],
            answered=POINTS[arms, 1],
            old_logp=logits.detach().log_softmax(1)[group, arms, None],
            ref_logp=start.log_softmax(1)[group, arms, None],
        )
        batch = arithmetic.reward_stage(form, columns, {"progress": 0.0, "step_index": update, "max_tokens": 1})[0]
        optimiser.zero_grad()
        loss_on(form, step_on(form, batch), logits.log_softmax(1)[group, arms, None]).backward()
        optimiser.step()
        if fold is not None:
            state, out = fold.update(state, reward_parts=batch["reward_parts"])
            form = steered(form, out)
        if update >= UPDATES * 9 // 10:
            found.append(((start + POINTS @ tilt.detach()).double().softmax(1) @ POINTS.double()).mean(0))
    return torch.stack(found).mean(0)


def _one_seed(seed: int) -> Mapping[str, float]:
    rng = torch.Generator().manual_seed(seed)
    thresholds, start = 0.5 + 0.2 * torch.rand(2, generator=rng), _start(rng)
    goals = (float(thresholds[0]), float(thresholds[1]))
    fixed = replace(one_term(constrained_rlhf(beta=BETA), credit=credit.group_normalise), fold=())
    forms = {
        "fixed": fixed,
        "mu": constrained_rlhf(goals, equality=False, beta=BETA),
        "xi": constrained_rlhf(goals, beta=BETA),
    }
    best, out = _gold(thresholds, thresholds), dict[str, float]()
    for name, form in forms.items():
        means = _means(form, start, torch.Generator().manual_seed(seed + 1))
        out[f"{name}: gold, share of the best"] = _gold(means, thresholds) / best
        off = means / thresholds - 1
        out[f"{name}: farthest from a threshold"] = float(off[off.abs().argmax()])
    return out


CLAIM = Claim(
    name="constrained-rlhf",
    system="constrained-rlhf",
    states="Two rewards in a bandit are worth having up to a threshold each, and twice against beyond: after 400 "
    "updates, multipliers that hold both at their thresholds (xi-PPO) end with a gold score more than 15 % of the best "
    "one above that of fixed equal weights; one-sided multipliers (mu-PPO) and the distance from the thresholds stand "
    "beside it.",
    unit="share of the best gold score",
    one_seed=_one_seed,
    effect=lambda arms: arms["xi: gold, share of the best"] - arms["fixed: gold, share of the best"],
    threshold=0.15,
)
