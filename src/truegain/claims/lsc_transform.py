"""Raw and log-sigmoid-centred sums of two rewards at equal KL: how often an answer is below a reference.

About one answer in a hundred is above both references. The first run, with 64 answers per prompt and 1 nat, could
hardly reach one: -ln 0.01 is 4.6 nats, and half the prompts had none. Now 512 answers and 4 nats.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from truegain.claims.claim import Claim
from truegain.core import arithmetic
from truegain.core.batch import Batch
from truegain.core.forms import Train
from truegain.methods import reward
from truegain.recipes.lsc_transform import lsc_transform

PROMPTS, ANSWERS, NATS, QUANTILE = 200, 512, 4.0, 0.85


def _rewards(seed: int) -> tuple[Tensor, Tensor]:
    """Two rewards of every answer [prompts, answers, 2], heavy-tailed and at odds; log-probs of the base policy."""
    rng = torch.Generator().manual_seed(seed)
    normal = torch.randn(PROMPTS, ANSWERS, 2, 4, generator=rng)
    tails = normal[..., 0] / (normal[..., 1:].square().sum(-1) / 3).sqrt()
    tails[..., 1] = tails[..., 1] - 0.5 * tails[..., 0]
    return tails, torch.randn(PROMPTS, ANSWERS, generator=rng).log_softmax(1)


def _utility(form: Train, both: Tensor, reference: Tensor) -> Tensor:
    """What the form's reward stage makes of the two rewards [prompts, answers]."""
    flat = both.reshape(-1, 2)
    columns = Batch(
        correct=flat[:, 0],
        answered=flat[:, 1],
        reference_reward=reference.repeat_interleave(ANSWERS, dim=0),
        group=torch.arange(PROMPTS).repeat_interleave(ANSWERS),
    )
    stage = arithmetic.reward_stage(form, columns, {"progress": 0.0, "step_index": 0, "max_tokens": 1})[0]
    return stage["reward"].reshape(PROMPTS, ANSWERS)


def _optimum(utility: Tensor, base: Tensor) -> Tensor:
    """The policy that maximises utility minus gamma KL, with one gamma for all prompts at which the mean KL is NATS."""
    low, high, policy = 1e-4, 1e4, base.double()
    for _ in range(100):
        gamma = (low * high) ** 0.5
        policy = (base.double() + utility.double() / gamma).log_softmax(1)
        kl = float((policy.exp() * (policy - base)).sum(1).mean())
        low, high = (gamma, high) if kl > NATS else (low, gamma)
    return policy.exp()


def _one_seed(seed: int) -> Mapping[str, float]:
    both, base = _rewards(seed)
    reference = both.quantile(QUANTILE, dim=1)
    # The checker's verdicts, which the recipe adds up, are replaced by the two rewards as they are.
    verdicts = (reward.outcome, partial(reward.well_formed, scale=1.0))
    bad = (both < reference[:, None]).any(dim=2).double()
    out = {"base: below a reference": float((base.double().exp() * bad).sum(1).mean())}
    for name, stage in (("raw", verdicts), ("lsc", (*verdicts, reward.log_sigmoid))):
        policy = _optimum(_utility(replace(lsc_transform(), reward=stage), both, reference), base)
        out[f"{name}: below a reference"] = float((policy * bad).sum(1).mean())
        out[f"{name}: sum of rewards"] = float((policy * both.sum(2)).sum(1).mean())
    return out


CLAIM = Claim(
    name="lsc-transform",
    system="lsc-transform",
    states="At the optimum of reward minus KL with one price of KL for all prompts and 4 nats on average, on 512 "
    "answers per prompt with two heavy-tailed rewards at odds, the sum of log-sigmoid-centred rewards leaves at least "
    "30 % fewer answers below one of the references than the sum of the rewards as they are.",
    unit="share of the answers below a reference under the raw sum",
    one_seed=_one_seed,
    effect=lambda arms: 1 - arms["lsc: below a reference"] / arms["raw: below a reference"],
    threshold=0.3,
)
