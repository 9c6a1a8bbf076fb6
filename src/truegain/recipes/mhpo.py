"""MHPO: modulated hazard-aware policy optimisation."""

from __future__ import annotations

from functools import partial

from truegain.core.forms import Loop, Term, Train
from truegain.core.system import system
from truegain.methods import credit, objective, reward


@system(
    "objective",
    paper="arXiv:2603.16929",
    cite="MHPO 2026, Modulated hazard-aware policy optimization",
    differs="built from an independent implementation's formula, as no official code was found: the hazard has no "
    "gradient (`through`) and is not 0 at ratio 1 (`one_at_zero`); 4 optimiser steps per batch; lr suits the tiny "
    "policy",
)
def mhpo(bound: float = 1.5, one_at_zero: bool = False, minibatches: int = 4) -> Train:
    """GRPO's credit in a loss whose log-ratio is squashed smoothly and damped by a hazard of large shifts.

    ``bound`` is the largest log-ratio that counts, in nats; ``one_at_zero`` makes the weight at ratio 1 equal to 1
    instead of 0.265. ``minibatches`` optimiser steps are made from each batch; with 1 the ratio is always 1. The shapes
    and scales of the hazard, for tokens made likelier and less likely, are knobs of `hazard_gate`.
    """
    term = Term(
        credit=credit.group_normalise,
        surrogate=partial(objective.hazard_gate, bound=bound, one_at_zero=one_at_zero),
        weight=objective.sequence_mean,
    )
    plan = partial(objective.minibatches, count=minibatches)
    return Train(reward=reward.outcome, terms=(term,), plan=plan, loop=Loop(samples=16, lr=1e-4))
