"""TP-GRPO: rewards of thoughts beside GRPO's outcome."""

from __future__ import annotations

from functools import partial
from typing import Literal

from truegain.core.forms import Loop, Term, Train
from truegain.core.system import system
from truegain.methods import credit, objective, reward


@system(
    "credit",
    paper="arXiv:2507.23317",
    cite="He et al. 2025, TP-GRPO",
    differs="known from its abstract and reviews: constants (`right`, `wrong`, `power`), the dependence on skill and "
    "whether a thought has its own reward or the sum to the end (`spread`) are choices made here; the judge is the "
    "task's exact one unless `judge` names a model (paper: a language model that looks for reflections); off-policy "
    "means several optimiser steps per batch, samples of earlier batches are not replayed; lr suits the tiny policy",
)
def tp_grpo(
    right: float = 0.5,
    wrong: float = 0.5,
    power: float = 1.0,
    spread: Literal["own", "to_go"] = "own",
    updates: int = 2,
    judge: str = "task",
    clip: float = 0.2,
) -> Train:
    """Neighbouring steps that a judge labels alike are one thought; each is paid as the model's skill allows.

    ``right`` is what a right thought earns where every sibling is right, falling with their share to ``power``;
    ``wrong`` what a wrong one costs in a row that ends wrong. ``updates`` optimiser steps are taken per batch, within
    the ratio's ``clip``. ``judge`` is ``task``, the task's own exact one, or a model, ``openai:MODEL@URL``.
    """
    thoughts = partial(credit.thought_rewards, right=right, wrong=wrong, power=power, spread=spread)
    term = Term(
        credit=(credit.group_normalise, thoughts),
        surrogate=partial(objective.ppo_clip, clip_low=clip, clip_high=clip),
        weight=objective.sequence_mean,
    )
    return Train(
        reward=reward.outcome,
        segment={"step": credit.by_step},
        probe=partial(reward.judged_steps, judge=judge),
        plan=partial(objective.minibatches, count=updates),
        terms=(term,),
        loop=Loop(samples=8, lr=1e-4),
    )
