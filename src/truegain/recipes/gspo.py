"""GSPO: group sequence policy optimisation."""

from __future__ import annotations

from functools import partial

from truegain.core.forms import Loop, Term, Train
from truegain.core.system import system
from truegain.methods import credit, objective, reward


@system(
    "objective",
    paper="arXiv:2507.18071",
    cite="Zheng et al. 2025, Group sequence policy optimization",
    differs="the clip is 100 times as wide as the paper's 3e-4 and 4e-4, as a short completion averages out less; "
    "lr suits the tiny policy",
)
def gspo(clip_low: float = 0.03, clip_high: float = 0.04, minibatches: int = 4) -> Train:
    """GRPO's credit in a loss whose ratio, and whose clip, is one per completion.

    ``clip_low`` and ``clip_high`` bound the geometric mean of the token ratios. ``minibatches`` optimiser steps are
    made from each batch; with 1 the ratio is always 1 and nothing is clipped.
    """
    term = Term(
        credit=credit.group_normalise,
        surrogate=partial(objective.sequence_clip, clip_low=clip_low, clip_high=clip_high),
        weight=objective.sequence_mean,
    )
    plan = partial(objective.minibatches, count=minibatches)
    return Train(reward=reward.outcome, terms=(term,), plan=plan, loop=Loop(samples=16, lr=1e-4))
