"""RandomCalculation: fresh problems, partial credit, rewards that are wrong on purpose, and an audit for leakage."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Literal

from truegain.core.component import Member
from truegain.core.forms import Decode, Loop, Train
from truegain.core.system import system
from truegain.methods import objective, reward, verifier
from truegain.recipes.grpo import grpo

_REWARDS: dict[str, Member] = {
    "partial": reward.user_score,
    "exact": reward.outcome,
    "random": reward.random_reward,
    "inverted": partial(reward.outcome, right=0.0, wrong=1.0),
    "mistake": reward.mistake_shared,
    "format": partial(reward.well_formed, scale=1.0),
}


@system(
    "verifier",
    paper="arXiv:2507.10532",
    cite="Wu et al. 2025, reasoning or memorization",
    differs="the problems are the task `calculation`: atoms and their odds are chosen here, values stay fractions of "
    "four digits, expressions are plain text and not LaTeX, splits are disjoint but drawn with replacement, so that at "
    "level 1 a problem may come twice; the commonest mistake is voted on by each step's own samples (paper: once, by "
    "the model before training); the audit cuts by characters and takes greedy continuations of train problems; "
    "settings of GRPO, updates per batch and lr suit the tiny policy",
)
def random_calculation(
    rewarded: Literal["partial", "exact", "random", "inverted", "mistake", "format"] = "partial",
    audit: bool = False,
    updates: int = 4,
) -> Train | tuple[Decode, Train]:
    """GRPO on problems that nobody can have seen, rewarded rightly, or wrongly on purpose to see what remains.

    ``rewarded``: with ``partial`` credit, which needs a task that gives ``score``; when ``exact``; at ``random``, half
    of the time; when wrong (``inverted``); for the commonest ``mistake`` of the samples; for the ``format`` alone. A
    gain that also comes under the last four, or not on fresh problems, is none of the reward's. ``updates`` optimiser
    steps are made per batch, so that the clip acts. ``audit`` first lets the model complete the beginnings of its train
    problems: how many of them it knows by heart.
    """
    form = replace(
        grpo(),
        reward=_REWARDS[rewarded],
        probe=verifier.find_common_mistake if rewarded == "mistake" else (),
        plan=partial(objective.minibatches, count=updates) if updates > 1 else (),
    )
    if not audit:
        return form
    return Decode(search=verifier.complete_prompts, loop=Loop(steps=8, prompts=16, max_tokens=256)), form
