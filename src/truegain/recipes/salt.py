"""SALT: advantages of steps from the graph of a group's rollouts."""

from __future__ import annotations

from functools import partial

from truegain.core.forms import Loop, Term, Train
from truegain.core.system import system
from truegain.methods import credit, objective, reward


@system(
    "credit",
    paper="arXiv:2510.20022",
    cite="SALT 2025, Step-level advantage assignment for long-horizon agents via trajectory graph",
    differs="built from the abstract and summaries; a node is what the policy said so far (paper: the environment's "
    "observation, perhaps with some history: `merge_shared_steps.history`), steps are lines and compared exactly; a "
    "row that repeats an edge counts once (`visits=each`); nothing is normalised after averaging; lr suits the "
    "tiny policy",
)
def salt(history: int = 1_000_000, clip: float = 0.2) -> Train:
    """GRPO whose advantage is averaged over the rows that share a step and kept where they part.

    ``history`` is how many earlier steps must agree too.
    """
    term = Term(
        credit=(credit.group_normalise, partial(credit.merge_shared_steps, history=history)),
        surrogate=partial(objective.ppo_clip, clip_low=clip, clip_high=clip),
        weight=objective.sequence_mean,
    )
    return Train(reward=reward.outcome, segment={"step": credit.by_step}, terms=(term,), loop=Loop(samples=8, lr=1e-4))
