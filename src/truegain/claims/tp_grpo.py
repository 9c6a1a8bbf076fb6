"""TP-GRPO on half as many samples against GRPO, on a chain of steps that may go wrong and be taken back."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from truegain.claims.claim import Claim
from truegain.claims.updates import loss_on, step_on
from truegain.core.batch import Batch
from truegain.core.forms import Train
from truegain.recipes.tp_grpo import tp_grpo

CHAIN, CHOICES, TOKENS = 6, 4, 16
START = 1.0  # logit of the right choice above the others'
GROUPS, SAMPLES, LR = 8, 8, 0.05
HALF, WHOLE = 31, 62  # updates of 64 rows: 1984 and 3968 samples


def _rollouts(steps: Tensor, backs: Tensor, rows: int, rng: torch.Generator) -> tuple[Tensor, ...]:
    """Log-prob, mask and label [N,T] of what was chosen, and whether the chain was walked without an error [N].

    A choice is right (the first one) or wrong. After a wrong one the policy goes back (the step is asked again) or on
    (the error stays). ``steps`` [CHAIN, CHOICES] and ``backs`` [CHAIN, 2] are its logits. The judge says 1 to a right
    choice and to going back, -1 to a wrong choice and to going on after it.
    """
    at, erred = torch.zeros(rows, dtype=torch.long), torch.zeros(rows, dtype=torch.bool)
    spoiled = torch.zeros(rows, dtype=torch.bool)
    kept: list[tuple[Tensor, Tensor, Tensor]] = []
    for _ in range(TOKENS):
        alive, place = at < CHAIN, at.clamp(max=CHAIN - 1)
        chosen = torch.multinomial(steps.detach().softmax(1)[place], 1, generator=rng)[:, 0]
        turned = torch.multinomial(backs.detach().softmax(1)[place], 1, generator=rng)[:, 0]
        step_logp = steps.log_softmax(1)[place, chosen]
        back_logp = backs.log_softmax(1)[place, turned]
        fine = torch.where(erred, turned == 0, chosen == 0)
        kept.append((torch.where(erred, back_logp, step_logp), alive, torch.where(fine, 1.0, -1.0)))
        goes_on = alive & torch.where(erred, turned == 1, chosen == 0)
        spoiled = spoiled | (alive & erred & (turned == 1))
        erred = alive & ~erred & (chosen != 0)
        at = at + goes_on.long()
    logp, mask, label = (torch.stack(list(column), 1) for column in zip(*kept, strict=True))
    return logp.masked_fill(~mask, 0.0), mask, label, ((at == CHAIN) & ~spoiled).float()


def _accuracy(form: Train, updates: int, seed: int) -> float:
    rng = torch.Generator().manual_seed(seed)
    steps = torch.zeros(CHAIN, CHOICES)
    steps[:, 0] = START
    weights = (steps.requires_grad_(), torch.zeros(CHAIN, 2, requires_grad=True))
    optimiser = torch.optim.Adam(weights, lr=LR)
    rows = GROUPS * SAMPLES
    for _ in range(updates):
        logp, mask, label, right = _rollouts(*weights, rows, rng)
        batch = Batch(
            mask=mask,
            group=torch.arange(rows) // SAMPLES,
            reward=right,
            correct=right,
            step=torch.where(mask, torch.arange(TOKENS), -1),
            step_reward=label.masked_fill(~mask, float("nan")),
            old_logp=logp.detach(),
        )
        optimiser.zero_grad()
        loss_on(form, step_on(form, batch), logp).backward()
        optimiser.step()
    with torch.no_grad():
        return float(_rollouts(*weights, 20_000, torch.Generator().manual_seed(seed + 1000))[3].mean())


def _one_seed(seed: int) -> Mapping[str, float]:
    outcome = tp_grpo(right=0.0, wrong=0.0)
    return {
        "tp-grpo, half": _accuracy(tp_grpo(), HALF, seed),
        "grpo": _accuracy(outcome, WHOLE, seed),
        "grpo, half": _accuracy(outcome, HALF, seed),
    }


CLAIM = Claim(
    name="tp-grpo",
    system="tp-grpo",
    states="On a chain of six steps that may go wrong and be taken back, judged without error, TP-GRPO after 1984 "
    "samples is more accurate than GRPO after 3968; both take one optimiser step per 64 samples.",
    unit="accuracy",
    one_seed=_one_seed,
    effect=lambda arms: arms["tp-grpo, half"] - arms["grpo"],
    threshold=0.0,
)
