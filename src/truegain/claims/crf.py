"""CRF's multiplied conciseness against the added one, where to be short makes some problems wrong."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from truegain.claims.claim import Claim
from truegain.claims.updates import loss_on, step_on
from truegain.core import arithmetic
from truegain.core.batch import Batch
from truegain.core.forms import Train
from truegain.recipes.crf import crf

PROMPTS, SAMPLES, UPDATES, LR, ALPHA = 32, 8, 300, 0.02, 1.0
RIGHT = torch.tensor([[0.85, 0.45], [0.95, 0.95]])  # hard and easy problems: chance to be right when long, when short
SCORE = torch.tensor([0.4, 1.0])  # conciseness of a long and of a short answer


def _trained(form: Train, seed: int, added: bool) -> Tensor:
    """Chance of a short answer on hard and on easy problems."""
    rng = torch.Generator().manual_seed(seed)
    logits = torch.zeros(2, requires_grad=True)
    optimiser = torch.optim.Adam([logits], lr=LR, betas=(0.9, 0.99))
    group = torch.arange(PROMPTS * SAMPLES) // SAMPLES
    kind = group % 2
    for update in range(UPDATES):
        short = (torch.rand(len(group), generator=rng) < logits.detach().sigmoid()[kind]).long()
        right = (torch.rand(len(group), generator=rng) < RIGHT[kind, short]).float()
        own = logits[kind]
        logp = torch.nn.functional.logsigmoid(torch.where(short == 1, own, -own))[:, None]
        columns = Batch(
            mask=torch.ones_like(logp, dtype=torch.bool), group=group, correct=right,
            conciseness=SCORE[short], old_logp=logp.detach(),
        )  # fmt: skip
        facts = {"progress": update / UPDATES, "step_index": update, "max_tokens": 1}
        batch, _ = arithmetic.reward_stage(form, columns, facts)
        if added:
            batch = Batch(**{**batch, "reward": right + ALPHA * SCORE[short]})
        optimiser.zero_grad()
        loss_on(form, step_on(form, batch), logp).backward()
        optimiser.step()
    return logits.detach().sigmoid()


def _one_seed(seed: int) -> Mapping[str, float]:
    arms: dict[str, float] = {}
    for name, added in (("crf", False), ("added", True)):
        short = _trained(crf(alpha=ALPHA), seed, added).double()
        wrong, long = 1 - RIGHT.double(), RIGHT.double()[:, 0]
        arms[f"{name}: short and wrong, hard"] = float(short[0] * wrong[0, 1])
        arms[f"{name}: short, easy"] = float(short[1])
        arms[f"{name}: accuracy"] = float((short * RIGHT[:, 1].double() + (1 - short) * long).mean())
    return arms


CLAIM = Claim(
    name="crf",
    system="crf",
    states="On problems where a short answer is right in 45 % of cases and a long one in 85 %, 300 equal updates with "
    "conciseness added to the outcome end with more than 15 points more short wrong answers than with conciseness "
    "multiplied in, at the same weight; problems where short is as good stand beside it.",
    unit="share of short wrong answers",
    one_seed=_one_seed,
    effect=lambda arms: arms["added: short and wrong, hard"] - arms["crf: short and wrong, hard"],
    threshold=0.15,
)
