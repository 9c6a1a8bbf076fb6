"""ARLCP against a length penalty alone: reflections help up to a number that grows with difficulty."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from truegain.claims.claim import Claim
from truegain.claims.updates import loss_on, step_on
from truegain.core import arithmetic
from truegain.core.batch import Batch
from truegain.core.forms import Train
from truegain.recipes.arlcp import arlcp

PROMPTS, SAMPLES, UPDATES, LR = 32, 16, 300, 0.05
MOST, USEFUL = 7, torch.tensor([1, 4])  # reflections at most; how many help on easy and on hard problems
STEP, FILLER = 4, 7  # tokens of a reflection; tokens of padding at most
START = torch.linspace(-1.0, 1.0, MOST + 1)


def _chance(kind: Tensor, reflections: Tensor) -> Tensor:
    """Each useful reflection adds its share; too many cost a little."""
    useful = torch.minimum(reflections, USEFUL[kind]) / USEFUL[kind]
    return 0.3 + 0.6 * useful - 0.03 * (reflections - USEFUL[kind]).clamp(min=0)


def _trained(form: Train, seed: int) -> Tensor:
    """Logits of the number of reflections on easy and on hard problems, after training."""
    rng = torch.Generator().manual_seed(seed)
    reflect, pad = START.repeat(2, 1).requires_grad_(), torch.zeros(2, FILLER + 1, requires_grad=True)
    optimiser = torch.optim.Adam([reflect, pad], lr=LR, betas=(0.9, 0.99))
    group = torch.arange(PROMPTS * SAMPLES) // SAMPLES
    kind = group % 2
    for _ in range(UPDATES):
        said, filler = (
            torch.multinomial(logits.detach().softmax(-1)[kind], 1, generator=rng)[:, 0] for logits in (reflect, pad)
        )
        right = (torch.rand(len(group), generator=rng) < _chance(kind, said)).float()
        length = 2 + STEP * said + filler
        mask = torch.arange(2 + STEP * MOST + FILLER) < length[:, None]
        # Both choices are made at the row's first two tokens; what follows is written without one.
        logp = torch.zeros(mask.shape)
        logp[:, 0], logp[:, 1] = reflect.log_softmax(-1)[kind, said], pad.log_softmax(-1)[kind, filler]
        columns = Batch(
            mask=mask, group=group, correct=right, reflections=said.float(), old_logp=logp.detach(),
        )  # fmt: skip
        batch, _ = arithmetic.reward_stage(form, columns, {"progress": 0.0, "step_index": 0, "max_tokens": 64})
        optimiser.zero_grad()
        loss_on(form, step_on(form, batch, 64), logp).backward()
        optimiser.step()
    return torch.cat([reflect.detach().softmax(-1), pad.detach().softmax(-1)], dim=1)


def _one_seed(seed: int) -> Mapping[str, float]:
    arms: dict[str, float] = {}
    counts, fill = torch.arange(MOST + 1), torch.arange(FILLER + 1)
    start = torch.cat([START.softmax(-1), torch.full((FILLER + 1,), 1 / (FILLER + 1))]).repeat(2, 1)
    both, alone = arlcp(bounds=(2.0, 4.0)), arlcp(weights=(0.0, 0.0, 0.0), bounds=(2.0, 4.0))
    for name, odds in {"start": start, "arlcp": _trained(both, seed), "length alone": _trained(alone, seed)}.items():
        said, filler = odds[:, : MOST + 1].double(), odds[:, MOST + 1 :].double()
        for n, word in enumerate(("easy", "hard")):
            kind = torch.full((MOST + 1,), n)
            arms[f"{name}: accuracy, {word}"] = float((said[n] * _chance(kind, counts)).sum())
            arms[f"{name}: reflections, {word}"] = float((said[n] * counts).sum())
            arms[f"{name}: tokens, {word}"] = float(2 + (STEP * said[n] * counts).sum() + (filler[n] * fill).sum())
    return arms


CLAIM = Claim(
    name="arlcp",
    system="arlcp",
    states="Reflections raise accuracy up to one on easy and four on hard problems: after 300 equal updates ARLCP is "
    "more than 2 points more accurate on hard problems than the same penalty on length alone; reflections and tokens "
    "stand beside it.",
    unit="accuracy on hard problems",
    one_seed=_one_seed,
    effect=lambda arms: arms["arlcp: accuracy, hard"] - arms["length alone: accuracy, hard"],
    threshold=0.02,
)
