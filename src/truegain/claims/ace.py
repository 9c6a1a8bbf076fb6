"""ACE against GRPO on a bandit with a decoy that was rewarded by mistake: how fast is the error unlearned?"""

from __future__ import annotations

from collections.abc import Mapping

import torch

from truegain.claims.claim import Claim
from truegain.claims.updates import loss_on, step_on
from truegain.core.batch import Batch
from truegain.core.forms import Train
from truegain.recipes.ace import ace

RARE, DECOY, OTHERS = 0.02, 0.5, 20
PROMPTS, SAMPLES, LR, MISLED, FOOLED, MOST, GONE = 16, 8, 0.05, 20, 0.3, 400, 0.05


def _unlearned(form: Train, seed: int) -> tuple[float, float, float]:
    """Updates after the false rewards until the decoy is below 5 %, pass@16 then, and the decoy's height before."""
    rng = torch.Generator().manual_seed(seed)
    start = torch.tensor([RARE, DECOY, *[(1 - RARE - DECOY) / OTHERS] * OTHERS]).log()
    logits = start.clone().requires_grad_()
    optimiser = torch.optim.Adam([logits], lr=LR, betas=(0.9, 0.99))
    rows, height = PROMPTS * SAMPLES, DECOY
    group, mask = torch.arange(PROMPTS).repeat_interleave(SAMPLES), torch.ones(rows, 1, dtype=torch.bool)
    for update in range(MISLED + MOST):
        before = logits.detach().log_softmax(0)
        if update == MISLED:
            height = float(before[1].exp())
        if update >= MISLED and before[1].exp() < GONE:
            return float(update - MISLED), _pass_at_16(before), height
        arms = torch.multinomial(before.exp(), rows, replacement=True, generator=rng)
        fooled = (torch.rand(rows, generator=rng) < FOOLED) & (update < MISLED)
        verdict = ((arms == 0) | ((arms == 1) & fooled)).float()
        batch = Batch(
            mask=mask,
            group=group,
            correct=verdict,
            reward=verdict,
            old_logp=before[arms, None],
            ref_logp=start.log_softmax(0)[arms, None],
        )
        optimiser.zero_grad()
        loss_on(form, step_on(form, batch), logits.log_softmax(0)[arms, None]).backward()
        optimiser.step()
    return float(MOST), _pass_at_16(logits.detach().log_softmax(0)), height


def _pass_at_16(logp: torch.Tensor) -> float:
    return 1 - (1 - float(logp[0].exp())) ** 16


def _one_seed(seed: int) -> Mapping[str, float]:
    out: dict[str, float] = {}
    for name, form in {"grpo": ace(alpha=0.0), "ace": ace()}.items():
        out[name], out[f"pass@16, {name}"], out[f"decoy, {name}"] = _unlearned(form, seed)
    return out


CLAIM = Claim(
    name="ace",
    system="ace",
    states="On a bandit whose wrong arm of probability 0.5 was rewarded by mistake in 20 early updates, GRPO needs "
    "more than 1.5 times as many further updates as ACE until that arm is below 0.05.",
    unit="ratio of updates",
    one_seed=_one_seed,
    # Both counts are of whole updates; an arm that is there at once counts as one.
    effect=lambda arms: max(arms["grpo"], 1.0) / max(arms["ace"], 1.0),
    threshold=1.5,
)
