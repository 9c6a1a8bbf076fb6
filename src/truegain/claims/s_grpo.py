"""S-GRPO on a chain whose accuracy rises to a plateau: where it learns to stop."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from truegain.claims.claim import Claim
from truegain.claims.stops import lengths_of, logp_of, mask_of
from truegain.claims.updates import loss_on, step_on
from truegain.core import arithmetic
from truegain.core.batch import Batch
from truegain.core.forms import Train
from truegain.recipes.s_grpo import s_grpo

LIMIT, PROMPTS, EXITS, UPDATES, LR = 24, 32, 7, 400, 0.05
PLATEAU, FROM, TO = 8, 0.05, 0.95
START = 2.5  # logit of going on at every step: 11 steps on average
ACCURACY = FROM + (TO - FROM) * (torch.arange(LIMIT + 1) / PLATEAU).clamp(max=1) ** 16


def _cuts(paths: Tensor, rng: torch.Generator) -> Tensor:
    """Places of exit [P, EXITS], different ones up to each path's length; 0 where the path is too short for more."""
    luck = torch.rand(len(paths), LIMIT, generator=rng)
    luck = luck.masked_fill(~mask_of(paths, LIMIT), 2.0)
    chosen = luck.argsort(dim=1)[:, :EXITS] + 1
    return torch.where(chosen <= paths[:, None], chosen, 0)


def _trained(form: Train, seed: int) -> Tensor:
    rng = torch.Generator().manual_seed(seed)
    logits = torch.full((LIMIT,), START, requires_grad=True)
    optimiser = torch.optim.Adam([logits], lr=LR, betas=(0.9, 0.99))
    for _ in range(UPDATES):
        paths = lengths_of(logits.detach().expand(PROMPTS, LIMIT), rng)
        cuts = _cuts(paths, rng)
        # An exit after k steps is a row that stops at k; the whole path comes last.
        length = torch.cat([cuts, paths[:, None]], dim=1)
        rows = length.reshape(-1)
        cut = torch.cat([cuts, torch.full_like(paths, -1)[:, None]], dim=1).reshape(-1)
        there, group = rows > 0, torch.arange(PROMPTS).repeat_interleave(EXITS + 1)
        rows, cut, group = rows[there], cut[there], group[there]
        right = (torch.rand(len(rows), generator=rng) < ACCURACY[rows]).float()
        logp = logp_of(logits.expand(len(rows), LIMIT), rows)
        columns = Batch(mask=mask_of(rows, LIMIT), group=group, correct=right, cut=cut, old_logp=logp.detach())
        batch, _ = arithmetic.reward_stage(form, columns, {"progress": 0.0, "step_index": 0, "max_tokens": LIMIT})
        optimiser.zero_grad()
        loss_on(form, step_on(form, batch, LIMIT), logp).backward()
        optimiser.step()
    return logits.detach()


def _one_seed(seed: int) -> Mapping[str, float]:
    arms: dict[str, float] = {}
    forms = {
        "s-grpo": s_grpo(),
        "all right ones alike": s_grpo(decay=1.0),
        "earliest alone": s_grpo(decay=float("inf")),
    }
    for name, form in forms.items():
        logits = _trained(form, seed)
        length = lengths_of(logits.expand(20_000, LIMIT), torch.Generator().manual_seed(seed + 1000))
        arms[f"{name}: steps"] = float(length.double().mean())
        arms[f"{name}: accuracy"] = float(ACCURACY[length].double().mean())
    return arms


CLAIM = Claim(
    name="s-grpo",
    system="s-grpo",
    states="On a chain whose accuracy rises until step 8 and is flat from there, S-GRPO ends, after 400 updates, "
    "within one step of that place on average; paying all right exits alike, and the earliest alone, stand beside it.",
    unit="steps by which the distance to the plateau is below 1",
    one_seed=_one_seed,
    effect=lambda arms: 1 - abs(arms["s-grpo: steps"] - PLATEAU),
    threshold=0.0,
)
