"""SAPO's gate against the hard clip: how many tokens of an off-policy batch teach nothing."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from truegain.claims.claim import Claim
from truegain.claims.updates import loss_on, one_term, step_on
from truegain.core.batch import Batch
from truegain.core.forms import Train
from truegain.methods import objective
from truegain.recipes.sapo import sapo

ROWS, TOKENS, NOISE = 64, 100, 0.3


def _without_gradient(form: Train, seed: int) -> float:
    """Share of tokens whose gradient is exactly 0, in pairs of a right and a wrong row."""
    rng = torch.Generator().manual_seed(seed)
    old = -torch.rand(ROWS, TOKENS, generator=rng) * 3
    logp = (old + NOISE * torch.randn(ROWS, TOKENS, generator=rng)).requires_grad_()
    batch = Batch(
        mask=torch.ones(ROWS, TOKENS, dtype=torch.bool),
        group=torch.arange(ROWS // 2).repeat_interleave(2),
        reward=torch.tensor([1.0, 0.0]).repeat(ROWS // 2),
        old_logp=old,
    )
    loss_on(form, step_on(form, batch), logp).backward()
    assert logp.grad is not None
    return float((logp.grad == 0).double().mean())


def _one_seed(seed: int) -> Mapping[str, float]:
    clipped = one_term(sapo(), surrogate=objective.ppo_clip)
    return {"ppo-clip": _without_gradient(clipped, seed), "sapo": _without_gradient(sapo(), seed)}


CLAIM = Claim(
    name="sapo",
    system="sapo",
    states="With log-ratios of deviation 0.3, the share of tokens without any gradient is larger by more than 20 "
    "points under a hard clip of 0.2 than under SAPO's gate.",
    unit="share of tokens",
    one_seed=_one_seed,
    effect=lambda arms: arms["ppo-clip"] - arms["sapo"],
    threshold=0.2,
)
