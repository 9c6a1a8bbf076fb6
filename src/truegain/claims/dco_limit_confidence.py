"""Fine-tuning for pass@64 against maximum likelihood on 200 questions with one noisy label each."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from truegain.claims.claim import Claim
from truegain.core import arithmetic
from truegain.core.batch import Batch
from truegain.core.forms import Fit
from truegain.recipes.dco_limit_confidence import dco_limit_confidence

QUESTIONS, ANSWERS, NOISE, EPOCHS, LR, TRIES = 200, 20, 0.4, 300, 0.05, 64


def _passes(form: Fit, seed: int) -> float:
    """Mean chance that one of `TRIES` samples is the true answer, after training on the noisy labels."""
    rng = torch.Generator().manual_seed(seed)
    true = torch.randint(ANSWERS, (QUESTIONS,), generator=rng)
    noisy = torch.rand(QUESTIONS, generator=rng) < NOISE
    label = torch.where(noisy, torch.randint(ANSWERS, (QUESTIONS,), generator=rng), true)
    logits = torch.zeros(QUESTIONS, ANSWERS, requires_grad=True)
    optimiser = torch.optim.Adam([logits], lr=LR)
    rows = torch.arange(QUESTIONS)
    batch = Batch(mask=torch.ones(QUESTIONS, 1, dtype=torch.bool), group=rows)
    (step,), _ = arithmetic.plan_stage(form, batch, (None,), {})
    for _ in range(EPOCHS):
        optimiser.zero_grad()
        logp = logits.log_softmax(1)[rows, label, None]
        arithmetic.loss_of(form, step, rows, {"logp": logp}, {})[0].backward()
        optimiser.step()
    right = logits.detach().double().softmax(1)[rows, true]
    return float((1 - (1 - right) ** TRIES).mean())


def _one_seed(seed: int) -> Mapping[str, float]:
    return {
        "maximum likelihood": _passes(dco_limit_confidence(tries=1), seed),
        "coverage": _passes(dco_limit_confidence(tries=TRIES), seed),
    }


CLAIM = Claim(
    name="dco-limit-confidence",
    system="dco-limit-confidence",
    states="On 200 questions of which 40 % have a random label, training for 64 tries ends with a pass@64 on the true "
    "answers that is more than 3 points above that of maximum likelihood.",
    unit="pass@64",
    one_seed=_one_seed,
    effect=lambda arms: arms["coverage"] - arms["maximum likelihood"],
    threshold=0.03,
)
