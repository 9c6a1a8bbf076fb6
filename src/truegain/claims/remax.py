"""ReMax against REINFORCE on a bandit whose rewards are all positive: the variance of the gradient."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from truegain.claims.claim import Claim
from truegain.claims.updates import loss_on, one_term, step_on
from truegain.core.batch import Batch
from truegain.core.forms import Train
from truegain.methods import credit
from truegain.recipes.remax import remax

ARMS, ROWS, BATCHES = 10, 32, 300


def _variance(form: Train, seed: int) -> float:
    """Variance of the gradient by the logits over batches of one state, summed over the arms."""
    rng = torch.Generator().manual_seed(seed)
    logits, pays = torch.randn(ARMS, generator=rng), 1 + torch.rand(ARMS, generator=rng)
    mask, greedy = torch.ones(ROWS, 1, dtype=torch.bool), pays[logits.argmax()].expand(ROWS)
    gradients: list[torch.Tensor] = []
    for _ in range(BATCHES):
        arms = torch.multinomial(logits.softmax(0), ROWS, replacement=True, generator=rng)
        leaf = logits.clone().requires_grad_()
        step = step_on(form, Batch(mask=mask, reward=pays[arms], greedy_reward=greedy))
        loss_on(form, step, leaf.log_softmax(0)[arms, None]).backward()
        assert leaf.grad is not None
        gradients.append(leaf.grad)
    return float(torch.stack(gradients).double().var(dim=0).sum())


def _one_seed(seed: int) -> Mapping[str, float]:
    plain = one_term(remax(), credit=credit.return_to_go)
    return {"no baseline": _variance(plain, seed), "greedy baseline": _variance(remax(), seed)}


CLAIM = Claim(
    name="remax",
    system="remax",
    states="On a bandit with rewards between 1 and 2, the gradient has more than twice the variance without a baseline "
    "as with the reward of the greedy arm.",
    unit="ratio of variances",
    one_seed=_one_seed,
    effect=lambda arms: arms["no baseline"] / arms["greedy baseline"],
    threshold=2.0,
)
