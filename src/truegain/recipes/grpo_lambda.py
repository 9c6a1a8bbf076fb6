"""GRPO-lambda: a length penalty for the best solved problems of a batch only."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from truegain.core.forms import Train
from truegain.core.system import system
from truegain.methods import length, reward
from truegain.recipes.grpo import grpo


@system(
    "length",
    paper="arXiv:2505.18086",
    cite="Dai et al. 2025, Stable reinforcement learning for efficient reasoning",
    differs="alpha is 0.2, as the paper's value is not known to us (a re-implementation has 0.6); groups of equal "
    "accuracy are taken by their number, from the batch of one step; not the other GRPO-lambda (arXiv:2510.00194), "
    "which has lambda-returns; one optimiser step per batch; lr suits the tiny policy",
)
def grpo_lambda(share: float = 0.2, alpha: float = 0.2, clip: float = 0.2) -> Train:
    """GRPO whose right answers pay for their length in the ``share`` of groups that are solved best, and only there.

    ``alpha`` is the most that a right answer pays; ``share`` 1 is the uniform penalty, 0 plain GRPO. ``clip`` bounds
    the ratio.
    """
    penalty = partial(length.relative_length, alpha=alpha, share=share)
    return replace(grpo(clip=clip), reward=(reward.outcome, penalty))
