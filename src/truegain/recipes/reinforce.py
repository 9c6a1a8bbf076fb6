"""REINFORCE: the policy gradient as it was."""

from __future__ import annotations

from truegain.core.forms import Loop, Term, Train
from truegain.core.system import system
from truegain.methods import credit, objective, reward


@system(
    "objective",
    paper="doi:10.1007/BF00992696",
    cite="Williams 1992, Simple statistical gradient-following algorithms",
    differs="AdamW instead of plain gradient ascent, and rows averaged; lr suits the tiny policy",
)
def reinforce() -> Train:
    """Every token's log-prob weighed by its row's reward: no baseline, no ratio, no clip.

    The reference point for whatever claims a smaller variance or a safer step; `rloo` is this with a baseline.
    """
    term = Term(credit=credit.return_to_go, surrogate=objective.policy_gradient, weight=objective.sequence_sum)
    return Train(reward=reward.outcome, terms=(term,), loop=Loop(samples=16, lr=1e-4))
