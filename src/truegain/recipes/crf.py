"""CRF: a conciseness reward that multiplies the outcome."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Literal

from truegain.core.forms import Role, Train
from truegain.core.system import system
from truegain.methods import length, reward
from truegain.recipes.grpo import grpo


@system(
    "length",
    paper="arXiv:2511.09158",
    cite="Wang et al. 2025, CRF: efficient reasoning via reward model",
    differs="known from a review: alpha 0.5, the annealing 1 - progress and the difficulty (the group's accuracy) are "
    "choices made here; without `model` the score is a rule, the share of lines that neither reflect nor repeat "
    "(paper: a reward model of 3 billion parameters fitted to a large judge's labels; its training is an ordinary fit "
    "of a head and no part of this recipe); one optimiser step per batch; lr suits the tiny policy",
)
def crf(
    alpha: float = 0.5,
    easy: Literal["more", "less", "same"] = "more",
    anneal: float = 1.0,
    model: str = "",
    clip: float = 0.2,
) -> Train:
    """GRPO on outcome * (1 + alpha * conciseness * (annealing + difficulty)): a wrong answer gains nothing by brevity.

    ``model`` is the folder of a reward model with a scalar head that scores conciseness, 0 to 1. ``easy`` says whether
    problems that are solved are pushed more, ``anneal`` how much of the push is gone by the end. ``clip`` bounds the
    ratio.
    """
    bonus = partial(length.conciseness_bonus, alpha=alpha, easy=easy, anneal=anneal)
    return replace(
        grpo(clip=clip),
        score=() if model else length.concise_lines,
        probe=length.conciseness_of_model if model else (),
        reward=(reward.outcome, bonus),
        roles={"conciseness": Role(source=model, fills="model_reward", head=True)} if model else {},
    )
