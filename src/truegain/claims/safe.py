"""SAFE against PPO with a fixed penalty on a bandit whose proxy can be hacked: how far the true reward falls again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial

import torch

from truegain.claims.claim import Claim
from truegain.claims.updates import step_on
from truegain.core import arithmetic
from truegain.core.batch import Batch
from truegain.core.forms import Train
from truegain.methods import objective
from truegain.recipes.safe import safe

# The true reward is the proxy until the policy is 0.5 nats from its start, and falls from there.
ARMS, ROWS, UPDATES, EPOCHS, LR, TRUST, FALL = 10, 64, 120, 2, 0.3, 0.5, 2.0
BETAS = (0.01, 0.1, 0.5, 2.0)
FACTS = {"progress": 0.0, "step_index": 0, "max_tokens": 1}


def _with_beta(form: Train, beta: float) -> Train:
    (term,) = form.terms
    held = tuple(
        partial(objective.kl_to_reference, beta=beta) if getattr(s, "func", s) is objective.kl_to_reference else s
        for s in term.surrogate  # pyright: ignore[reportGeneralTypeIssues]
    )
    return replace(form, terms=(replace(term, surrogate=held),))


def _run(seed: int, beta: float | None) -> tuple[float, float, float]:
    """Drawdown of the true reward, final KL, share of updates with a KL up to 0.6. ``beta`` None: SAFE's control."""
    rng = torch.Generator().manual_seed(seed)
    pays = torch.randn(ARMS, generator=rng)
    logits, start = torch.zeros(ARMS, requires_grad=True), torch.zeros(ARMS).log_softmax(0)
    form = _with_beta(replace(safe(), terms=safe().terms[:1], roles={}, fold=()), beta or 0.0)
    control = objective.entropy_gated_kl()
    state, critics = control.init(), torch.zeros(2)
    optimiser = torch.optim.SGD([logits], lr=LR)
    truths, kls = list[float](), list[float]()
    for _ in range(UPDATES):
        before = logits.detach().log_softmax(0)
        arms = torch.multinomial(before.exp(), ROWS, replacement=True, generator=rng)
        # Two critics of the only state, each moved by half of the rows; SAFE takes their soft minimum.
        value = (objective.soft_min(critics) if beta is None else critics.mean()).expand(ROWS, 1)
        critics = critics + 0.2 * (pays[arms].reshape(2, -1).mean(dim=1) - critics)
        columns = {"mask": torch.ones(ROWS, 1, dtype=torch.bool), "reward": pays[arms], "old_value": value}
        step = step_on(form, Batch(**columns, old_logp=before[arms, None], ref_logp=start[arms, None]))
        for _ in range(EPOCHS):
            logp = logits.log_softmax(0)
            entropy = -(logp.exp() * logp).sum().expand(ROWS, 1)
            current = {"logp": logp[arms, None], "entropy": entropy}
            optimiser.zero_grad()
            arithmetic.loss_of(form, step, torch.arange(ROWS), current, FACTS)[0].backward()
            optimiser.step()
        after = logits.detach().log_softmax(0)
        kls.append(float((after.exp() * (after - start)).sum()))
        truths.append(float(after.exp() @ pays) - FALL * max(kls[-1] - TRUST, 0.0))
        if beta is None:
            line = {"kl": kls[-1], "reward": float(pays[arms].mean())}
            drawn = {"engine_logp": before[arms, None], "mask": columns["mask"]}
            state, out = control.update(state, line=line, **drawn)
            form = _with_beta(form, out[control.setting])
    peaks = torch.tensor(truths).cummax(0).values
    return float((peaks - torch.tensor(truths)).max()), kls[-1], sum(kl <= 0.6 for kl in kls) / UPDATES


def _one_seed(seed: int) -> Mapping[str, float]:
    fall, final, inside = _run(seed, None)
    others = {beta: _run(seed, beta) for beta in BETAS}
    beta = min(BETAS, key=lambda b: abs(others[b][1] - final))
    fixed, fixed_final, fixed_inside = others[beta]
    return {
        "safe: drawdown": fall,
        "safe: final KL": final,
        "safe: KL up to 0.6": inside,
        "fixed: drawdown": fixed,
        "fixed: final KL": fixed_final,
        "fixed: KL up to 0.6": fixed_inside,
        "fixed: beta": beta,
    }


CLAIM = Claim(
    name="safe",
    system="safe",
    states="On a bandit whose true reward falls beyond 0.5 nats from the start, the largest fall of the true reward "
    "from its peak is less than half as large under SAFE as under PPO with that of four fixed penalties which ends at "
    "the nearest KL.",
    unit="true reward",
    one_seed=_one_seed,
    effect=lambda arms: 0.5 * arms["fixed: drawdown"] - arms["safe: drawdown"],
    threshold=0.0,
    seeds=5,
)
