"""Curriculum GRPO: train long, think short, under a token budget that shrinks."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Literal

from truegain.core.forms import Train
from truegain.core.system import system
from truegain.methods import length, reward
from truegain.recipes.grpo import grpo


@system(
    "length",
    paper="arXiv:2508.08940",
    cite="Hammoud et al. 2025, Train long, think short",
    differs="the budget begins at 64 tokens and is multiplied by 0.7 every 25 steps, thrice, as traces and runs are "
    "short (paper 256 tokens, every 100 steps, 87 at the end); the budget is not written into the prompt, "
    "which the tiny policy could not read; the format is one well-formed answer, worth 0.1 (values not known to us); "
    "the deviation is the sample's (paper: the population's), over 16 samples (paper 8); beta is 0; one optimiser step "
    "per batch; lr suits the tiny policy",
)
def curriculum_grpo(
    start: float = 64.0,
    decay: float = 0.7,
    every: int = 25,
    least: float = 22.0,
    right: float = 0.6,
    near: float = 0.3,
    form: float = 0.1,
    shape: Literal["peak", "band"] = "peak",
    clip: float = 0.2,
) -> Train:
    """GRPO on correctness, a length near the budget and a well-formed answer, ``right``, ``near`` and ``form`` of each.

    The budget is ``start`` tokens, times ``decay`` after ``every`` steps, and never below ``least``. Right and wrong
    answers earn the length reward alike. ``right`` 0.3 and ``near`` 0.6 is the paper's other mixture. ``shape="band"``
    pays all lengths below the budget. ``decay`` 1 with a small ``start`` is the fixed budget that the paper compares
    with. ``clip`` bounds the ratio.
    """
    return replace(
        grpo(clip=clip),
        reward=(
            partial(reward.outcome, right=right),
            partial(length.near_budget, budget=start, most=near, shape=shape),
            partial(reward.well_formed, scale=form),
        ),
        fold=partial(length.shrink_budget, start=start, decay=decay, every=every, least=least),
    )
