"""V0.5's baseline from about 5 rollouts against the mean of 16, on prompts most of whose priors are about right."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from types import SimpleNamespace

import torch

from truegain.claims.claim import Claim
from truegain.claims.updates import step_on
from truegain.core.batch import Batch
from truegain.core.forms import members
from truegain.core.types import Problem, Rollout
from truegain.recipes.v0_5 import v0_5

PROMPTS, START, MOST, GOOD = 2000, 4, 16, 0.8


def _rows(problem: Problem, count: int, rng: torch.Generator) -> list[Rollout]:
    found = (torch.rand(count, generator=rng) < problem.meta["p"]).float() * 2 - 1
    return [Rollout(problem, (), (), (), "", "eos", (), facts={"reward": value}) for value in found.tolist()]


def _rewards(rows: Sequence[Rollout]) -> list[float]:
    return [row.facts["reward"] for row in rows]


def _one_seed(seed: int) -> Mapping[str, float]:
    form, rng = v0_5(most=MOST), torch.Generator().manual_seed(seed)
    p = torch.rand(PROMPTS, 3, generator=rng).median(dim=1).values  # the median of three is Beta(2, 2)
    truth, good = 2 * p - 1, torch.rand(PROMPTS, generator=rng) < GOOD
    off = torch.where(torch.rand(PROMPTS, generator=rng) < 0.5, 0.8, -0.8)
    prior = truth + torch.where(good, 0.2 * torch.randn(PROMPTS, generator=rng), off)
    problems = [Problem(str(i), "", meta={"p": float(p[i]), "number": i}) for i in range(PROMPTS)]
    rows = [row for problem in problems for row in _rows(problem, START, rng)]
    # The prior is on the scale of rewards, beyond [-1, 1] too, so it is given by number, not as a success rate.
    for i in range(PROMPTS):
        own = rows[i * START : (i + 1) * START]
        loop = SimpleNamespace(round=0, rewards=_rewards, again=lambda asked, n: _rows(asked[0], n, rng))
        while more := partial(members(form.resample)[0], otherwise=float(prior[i]))(loop, own).add:
            own += more
        rows += own[START:]
    group = torch.tensor([row.problem.meta["number"] for row in rows])
    reward, one = torch.tensor(_rewards(rows)), torch.ones(len(rows), 1, dtype=torch.bool)
    batch = Batch(mask=one, group=group, reward=reward, prior_value=prior[group][:, None])
    (advantage,) = step_on(form, batch).advantages
    assert advantage is not None
    baseline = torch.zeros(PROMPTS).scatter(0, group, reward - advantage[:, 0])
    count = torch.bincount(group, minlength=PROMPTS).float()
    sixteen = torch.binomial(torch.full((PROMPTS,), float(MOST)), p, generator=rng) / MOST * 2 - 1
    error, plain = (baseline - truth) ** 2, (sixteen - truth) ** 2
    return {
        "fused, good priors": float(error[good].mean()),
        "mean of 16, good priors": float(plain[good].mean()),
        "fused, bad priors": float(error[~good].mean()),
        "rollouts, good priors": float(count[good].mean()),
        "rollouts, bad priors": float(count[~good].mean()),
    }


CLAIM = Claim(
    name="v0.5",
    system="v0.5",
    states="On prompts whose prior is off by 0.2 (one in five is off by 0.8), the squared error of V0.5's baseline is "
    "more than 10 % below that of the mean of 16 rewards where the prior is good, from at most 6.5 rollouts a prompt "
    "there and at least 1.5 times as many where it is bad.",
    unit="share of the error of 16 rewards",
    one_seed=_one_seed,
    effect=lambda arms: (
        1 - arms["fused, good priors"] / arms["mean of 16, good priors"]
        if arms["rollouts, good priors"] <= min(6.5, arms["rollouts, bad priors"] / 1.5)
        else -1.0
    ),
    threshold=0.1,
)
