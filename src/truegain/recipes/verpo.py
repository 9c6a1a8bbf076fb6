"""VeRPO: partial credit for unit tests, weighted by how rarely they are passed, beside the all-or-nothing outcome."""

from __future__ import annotations

from functools import partial
from typing import Literal

from truegain.core.forms import Loop, Term, Train
from truegain.core.system import system
from truegain.methods import credit, objective, reward


@system(
    "credit",
    paper="arXiv:2601.03525",
    cite="VeRPO 2026, Verifiable Dense Reward Policy Optimization for Code Generation, second version",
    differs="alpha, sigma, beta, gamma and the loss's aggregation are not known to us (a note on the paper gives the "
    "formulas only): 2, 0.2, 1, 0.95 and a mean over tokens are ours; tests are run on a row's final program, so that "
    "all turns of a row share its partial credit, where the paper runs them after every turn; a "
    "single turn is discounted once too, where the paper leaves it; one optimiser step per batch, of 16 prompts (paper "
    "32); lr suits the tiny policy",
)
def verpo(
    alpha: float = 2.0,
    sigma: float = 0.2,
    beta: float = 1.0,
    gamma: float = 0.95,
    density: Literal["gaussian", "none"] = "gaussian",
) -> Train:
    """Outcome, discounted by turns, and weighted unit tests, each minus its group's mean, added.

    ``alpha`` makes rare tests weigh more, ``sigma`` is how far apart in pass rate tests count as different, ``density``
    "none" leaves that out (the paper's first version). ``beta`` weighs the partial credit; with 0 the outcome is left.
    ``gamma`` discounts the outcome per turn. Needs a task with unit tests, such as ``program``.
    """
    dense = partial(credit.weighted_tests, alpha=alpha, sigma=sigma, density=density, scale=beta)
    term = Term(
        credit=(partial(credit.group_normalise, std="none"), dense),
        surrogate=objective.ppo_clip,
        weight=objective.token_mean,
    )
    return Train(
        reward=(reward.outcome, partial(reward.turn_discount, gamma=gamma)),
        terms=(term,),
        loop=Loop(samples=10, lr=1e-4),
    )
