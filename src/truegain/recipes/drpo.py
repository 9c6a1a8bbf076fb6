"""DRPO: decoupled reward policy optimisation for short answers."""

from __future__ import annotations

from functools import partial

from truegain.core.forms import Loop, Term, Train
from truegain.core.system import system
from truegain.methods import objective, reward


@system(
    "objective",
    paper="arXiv:2510.04474",
    cite="Li et al. 2025, DRPO: efficient reasoning via decoupled reward policy optimization",
    differs="the KL constraint is on each question's rows (paper: on those of the mini-batch, which no micro-batch "
    "knows); the negative term is logged by its value (the code logs the constant tau; the gradient is the same); the "
    "length limit is the loop's max_tokens (paper 8192); spread is the script's 0.1, which the paper sweeps; lr suits "
    "the tiny policy (paper 2e-6); 16 prompts per step (paper 128)",
)
def drpo(
    tau: float = 10.0, spread: float = 0.1, beta: float = 1000.0, delta: float = 1e-4, minibatches: int = 4
) -> Train:
    """Short right answers are preferred among the right ones only, so that no right answer is pushed down for length.

    ``spread`` is how steeply shorter right answers are preferred, as a share of the token limit: infinity is DisCO.
    ``tau`` smooths the maximum over wrong answers. ``beta`` and ``delta`` (nats per token) are the trust region, which
    acts from the second of ``minibatches`` optimiser steps on.
    """
    term = Term(
        surrogate=(
            partial(objective.decoupled_contrast, tau=tau, spread=spread),
            partial(objective.kl_hinge, beta=beta, delta=delta),
        ),
        weight=objective.group_mean,
    )
    plan = partial(objective.minibatches, count=minibatches)
    return Train(reward=reward.outcome, terms=(term,), plan=plan, loop=Loop(samples=8, lr=1e-4, temperature=0.6))
