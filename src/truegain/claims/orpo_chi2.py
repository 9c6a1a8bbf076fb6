"""Root of chi-squared against KL where the proxy's error sits in actions that the base policy hardly takes."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from truegain.claims.claim import Claim
from truegain.core import arithmetic
from truegain.core.batch import Batch
from truegain.core.forms import Train
from truegain.methods import reward
from truegain.recipes.orpo_chi2 import orpo_chi2
from truegain.recipes.rm_ensemble_conservative import on_members

ORDINARY, RARE, RARE_MASS = 97, 3, 0.002
STEPS, ROWS, LR = 200, 4096, 0.05  # rows enough that the rare actions are drawn from the start
SCALES = (1.0, 0.3, 0.1)


def _bandit(rng: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Base logits, true reward and proxy of the actions; the rare ones look best and are worst."""
    base = torch.randn(ORDINARY, generator=rng).softmax(0) * (1 - RARE_MASS)
    true = torch.randn(ORDINARY, generator=rng)
    proxy = true + 0.8 * torch.randn(ORDINARY, generator=rng)
    logits = torch.cat([base, torch.full((RARE,), RARE_MASS / RARE)]).log()
    return logits, torch.cat([true, torch.full((RARE,), -6.0)]), torch.cat([proxy, torch.full((RARE,), 6.0)])


def _trained(form: Train, base: Tensor, proxy: Tensor, seed: int) -> Tensor:
    """Action probabilities after training on samples."""
    rng = torch.Generator().manual_seed(seed)
    logits = base.clone().requires_grad_()
    optimiser = torch.optim.Adam([logits], lr=LR, betas=(0.9, 0.99))
    mask, group = torch.ones(ROWS, 1, dtype=torch.bool), torch.zeros(ROWS, dtype=torch.long)
    for _ in range(STEPS):
        action = torch.multinomial(logits.detach().softmax(0), ROWS, replacement=True, generator=rng)
        logp = logits.log_softmax(0)[action][:, None]
        columns = Batch(
            mask=mask, group=group, model_reward=proxy[action][:, None], old_logp=logp.detach(),
            ref_logp=base.log_softmax(0)[action][:, None],
        )  # fmt: skip
        batch, _ = arithmetic.reward_stage(form, columns, {})
        advantages, _ = arithmetic.credit_stage(form, batch, {})
        (step,), _ = arithmetic.plan_stage(form, batch, advantages, {})
        optimiser.zero_grad()
        arithmetic.loss_of(form, step, torch.arange(ROWS), {"logp": logp}, {})[0].backward()
        optimiser.step()
    return logits.detach().softmax(0)


def _one_seed(seed: int) -> Mapping[str, float]:
    base, true, proxy = _bandit(torch.Generator().manual_seed(seed))
    chance = base.softmax(0)
    centre = float(chance @ proxy)
    spread = float((chance @ (proxy - centre) ** 2) ** 0.5)
    proxy = (proxy - centre) / spread
    found = {"base": float(chance @ true)}
    found["no penalty"] = float(_trained(on_members(reward.mean_member, 0.0, "lab"), base, proxy, seed) @ true)
    for scale in SCALES:
        kl, chi2 = on_members(reward.mean_member, scale, "lab"), orpo_chi2(scale=scale, models="lab")
        found[f"KL {scale:g}"] = float(_trained(kl, base, proxy, seed) @ true)
        found[f"chi2 {scale:g}"] = float(_trained(chi2, base, proxy, seed) @ true)
    return found


def _best(arms: Mapping[str, float], what: str) -> float:
    return max(arms[f"{what} {scale:g}"] for scale in SCALES)


CLAIM = Claim(
    name="orpo-chi2",
    system="orpo-chi2",
    states="On a bandit whose proxy is wrong in three actions that the base policy takes twice in a thousand, the best "
    "of three strengths of sqrt(chi^2) ends with over 0.05 more true reward than the best of the same three of KL.",
    unit="true reward",
    one_seed=_one_seed,
    effect=lambda arms: _best(arms, "chi2") - _best(arms, "KL"),
    threshold=0.05,
)
