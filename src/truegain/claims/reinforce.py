"""REINFORCE with and without a baseline on a bandit whose rewards are all positive: the variance of its gradient."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from truegain.claims.claim import Claim
from truegain.claims.updates import loss_on, one_term, step_on
from truegain.core.batch import Batch
from truegain.core.forms import Train
from truegain.methods import credit
from truegain.recipes.reinforce import reinforce

ARMS, ROWS, BATCHES = 10, 32, 300


def _variance(form: Train, seed: int) -> float:
    """Variance of the gradient by the logits over batches of one state, summed over the arms."""
    rng = torch.Generator().manual_seed(seed)
    logits, pays = torch.randn(ARMS, generator=rng), 1 + torch.rand(ARMS, generator=rng)
    mask, group = torch.ones(ROWS, 1, dtype=torch.bool), torch.zeros(ROWS, dtype=torch.long)
    gradients: list[torch.Tensor] = []
    for _ in range(BATCHES):
        arms = torch.multinomial(logits.softmax(0), ROWS, replacement=True, generator=rng)
        leaf = logits.clone().requires_grad_()
        logp = leaf.log_softmax(0)[arms, None]
        step = step_on(form, Batch(mask=mask, group=group, reward=pays[arms]))
        loss_on(form, step, logp).backward()
        assert leaf.grad is not None
        gradients.append(leaf.grad)
    return float(torch.stack(gradients).double().var(dim=0).sum())


def _one_seed(seed: int) -> Mapping[str, float]:
    # The batch is one group: its leave-one-out mean is the batch-mean baseline, scaled so that the expectation stays.
    based = one_term(reinforce(), credit=credit.leave_one_out)
    return {"no baseline": _variance(reinforce(), seed), "batch mean": _variance(based, seed)}


CLAIM = Claim(
    name="reinforce",
    system="reinforce",
    states="On a bandit with rewards between 1 and 2, REINFORCE's gradient has more than twice the variance without a "
    "baseline as with the mean reward of the batch's other rows.",
    unit="ratio of variances",
    one_seed=_one_seed,
    effect=lambda arms: arms["no baseline"] / arms["batch mean"],
    threshold=2.0,
)
