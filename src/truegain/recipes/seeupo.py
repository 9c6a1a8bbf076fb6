"""SeeUPO: turns updated one after another, from the last to the first."""

from __future__ import annotations

from functools import partial
from typing import Literal

from truegain.core.forms import Loop, Role, Term, Train
from truegain.core.system import system
from truegain.methods import credit, objective, reward


@system(
    "objective",
    paper="arXiv:2602.06554",
    cite="Hu et al. 2026, SeeUPO",
    differs="built from a fork of the official code; the deviation of the rewards is taken once, over all rows "
    "(source: over the rows that have the turn); the penalty to the reference is averaged per row and does not carry "
    "the ratio; whether the published runs had it is not known to us (beta=0 leaves it out); a turn of a row without "
    "tools is the whole row, which makes it GSPO; no custom order; lr suits the tiny policy (source 1e-6)",
)
def seeupo(
    order: Literal["reverse", "forward", "random"] = "reverse",
    clip: float = 0.2,
    low: float = 0.8,
    high: float = 1.2,
    beta: float = 0.002,
) -> Train:
    """One optimiser step per turn; what a step did to a row's later turns weighs the row in the steps before them.

    ``order`` is reverse, forward or random. ``clip`` bounds each turn's own ratio, ``low`` and ``high`` the one that
    is carried from turn to turn (1 and 1: none). ``beta`` weighs the k3 penalty to the policy before training; 0 loads
    no reference. Meant for tasks with turns, such as ``calculator`` and ``search``.
    """
    terms = (
        Term(
            credit=partial(credit.group_normalise, std="centred", bound=3.0),
            surrogate=partial(objective.sequence_clip, clip_low=clip, clip_high=clip),
            weight=(objective.sequence_mean, partial(objective.carried_ratio, low=low, high=high)),
        ),
    )
    roles: dict[str, Role] = {}
    if beta > 0:
        terms += (Term(surrogate=partial(objective.kl_to_reference, beta=beta), weight=objective.sequence_mean),)
        roles = {"reference": Role(source="init", fills="ref_logp")}
    return Train(
        reward=reward.outcome,
        terms=terms,
        plan=partial(objective.turns_in_order, order=order),
        roles=roles,
        loop=Loop(samples=8, temperature=0.9, lr=1e-4),
    )
