"""PROF against GRPO on the same samples, where flawed steps are often lucky and the process rewards are 75 % right."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from truegain.claims.claim import Claim
from truegain.claims.updates import loss_on, step_on
from truegain.core import arithmetic
from truegain.core.batch import Batch
from truegain.core.forms import Train
from truegain.recipes.grpo import grpo
from truegain.recipes.prof import prof

STEPS, LUCK, SOUND, NOISE = 4, 0.5, 0.95, 0.25
GROUPS, SAMPLES, UPDATES, LR = 16, 8, 30, 1.0


def _sound_share(form: Train, seed: int) -> float:
    """Share of sound steps after training; each of four steps begins with an even chance to be sound."""
    rng = torch.Generator().manual_seed(seed)
    logits = torch.zeros(STEPS, 2, requires_grad=True)
    optimiser = torch.optim.SGD([logits], lr=LR)
    rows = GROUPS * SAMPLES
    step = torch.arange(STEPS).expand(rows, -1)
    for _ in range(UPDATES):
        action = torch.multinomial(logits.detach().softmax(-1), rows, replacement=True, generator=rng).T
        sound = action == 1
        chance = torch.where(sound.all(1), SOUND, LUCK)
        correct = (torch.rand(rows, generator=rng) < chance).float()
        says = (sound ^ (torch.rand(rows, STEPS, generator=rng) < NOISE)).float()
        logp = logits.log_softmax(-1)[step, action]
        batch = Batch(
            mask=torch.ones(rows, STEPS, dtype=torch.bool),
            group=torch.arange(rows) // SAMPLES,
            key=torch.randperm(rows, generator=rng),
            step=step,
            step_reward=says,
            correct=correct,
            reward=2 * correct - 1,
            old_logp=logp.detach(),
        )
        kept, index, _ = arithmetic.select_stage(form, batch, {})
        optimiser.zero_grad()
        loss_on(form, step_on(form, kept, max_tokens=STEPS), logp[index]).backward()
        optimiser.step()
    return float(logits.detach().softmax(-1)[:, 1].mean())


def _one_seed(seed: int) -> Mapping[str, float]:
    return {"prof": _sound_share(prof(), seed), "grpo": _sound_share(grpo(), seed)}


CLAIM = Claim(
    name="prof",
    system="prof",
    states="With process rewards that are 75 % right and answers that are lucky half the time, the share of sound "
    "steps after 30 updates on 8 samples a prompt is more than 10 points higher when PROF keeps 4 than when GRPO "
    "uses all 8.",
    unit="share of sound steps",
    one_seed=_one_seed,
    effect=lambda arms: arms["prof"] - arms["grpo"],
    threshold=0.1,
)
