"""Dr. GRPO against GRPO where the length of an answer decides nothing: does the length of wrong answers grow?"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from truegain.claims.claim import Claim
from truegain.claims.updates import loss_on, step_on
from truegain.core.batch import Batch
from truegain.core.forms import Train
from truegain.recipes.dr_grpo import dr_grpo
from truegain.recipes.grpo import grpo

STEPS, PROMPTS, SAMPLES, LIMIT, LR = 300, 16, 8, 64, 0.01
START = 8.0  # mean length at the start, without the limit


def _trained_length(form: Train, seed: int) -> float:
    """Mean length of wrong answers after training.

    Whether an answer is right is a coin. After it the policy chooses to go on or to stop at every token, with one logit
    for wrong answers and one for right ones: no length is worth more than another.
    """
    rng = torch.Generator().manual_seed(seed)
    logits = torch.full((2,), START - 1.0).log().requires_grad_()
    optimiser = torch.optim.Adam([logits], lr=LR, betas=(0.9, 0.99))
    group = torch.arange(PROMPTS).repeat_interleave(SAMPLES)
    for _ in range(STEPS):
        right = torch.rand(len(group), generator=rng) < 0.5
        go_on = torch.rand(len(group), LIMIT, generator=rng) < logits.detach()[right.long()].sigmoid()[:, None]
        before = torch.cat([torch.ones(len(group), 1, dtype=torch.bool), go_on[:, :-1]], dim=1)
        mask = before.cumprod(dim=1).bool()
        own = logits[right.long()][:, None]
        logp = torch.where(go_on, logsigmoid(own), logsigmoid(-own))
        batch = Batch(mask=mask, group=group, reward=right.float(), old_logp=logp.detach())
        optimiser.zero_grad()
        loss_on(form, step_on(form, batch, LIMIT), logp).backward()
        optimiser.step()
    return _mean_length(logits.detach()[0].sigmoid())


def _mean_length(go_on: Tensor) -> float:
    """Expected tokens of an answer that goes on with this probability and is cut at the limit."""
    return float(go_on.double().pow(torch.arange(LIMIT)).sum())


def _one_seed(seed: int) -> Mapping[str, float]:
    return {"grpo": _trained_length(grpo(), seed), "dr-grpo": _trained_length(dr_grpo(), seed)}


CLAIM = Claim(
    name="dr-grpo",
    system="dr-grpo",
    states="Where length decides nothing, wrong answers are more than 1.3 times as long after 300 steps of GRPO as "
    "after 300 steps of Dr. GRPO from the same start.",
    unit="ratio of mean lengths of wrong answers",
    one_seed=_one_seed,
    effect=lambda arms: arms["grpo"] / arms["dr-grpo"],
    threshold=1.3,
)
