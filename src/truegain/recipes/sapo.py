"""SAPO: soft adaptive policy optimisation."""

from __future__ import annotations

from functools import partial

from truegain.core.forms import Loop, Term, Train
from truegain.core.system import system
from truegain.methods import credit, objective, reward


@system(
    "objective",
    paper="arXiv:2511.20347",
    cite="Gao et al. 2025, Soft adaptive policy optimization",
    differs="4 optimiser steps per batch, as GSPO's paper makes; lr suits the tiny policy",
)
def sapo(tau_pos: float = 1.0, tau_neg: float = 1.05, minibatches: int = 4) -> Train:
    """GRPO's credit in a loss whose trust fades smoothly as a token's ratio leaves 1.

    ``tau_pos`` and ``tau_neg`` set how fast, for tokens to be made likelier and less likely. ``minibatches`` optimiser
    steps are made from each batch; with 1 the ratio is always 1 and the gate wide open.
    """
    term = Term(
        credit=credit.group_normalise,
        surrogate=partial(objective.soft_gate, tau_pos=tau_pos, tau_neg=tau_neg),
        weight=objective.sequence_mean,
    )
    plan = partial(objective.minibatches, count=minibatches)
    return Train(reward=reward.outcome, terms=(term,), plan=plan, loop=Loop(samples=16, lr=1e-4))
