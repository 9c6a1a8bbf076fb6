"""EMPG: credit of each step modulated by how certain the policy was."""

from __future__ import annotations

from functools import partial

from truegain.core.forms import Loop, Term, Train
from truegain.core.system import system
from truegain.methods import credit, objective, reward


@system(
    "objective",
    paper="arXiv:2509.09265",
    cite="Wang et al. 2025, EMPG",
    differs="a step's uncertainty is the mean of minus the log-prob of its tokens, one sample of the paper's mean "
    "entropy; steps are lines of the completion (paper: turns of an agent); sharpness, clarity and bonus are those of "
    "a re-implementation, as the paper's are not published per benchmark; statistics count steps (`per=token` counts "
    "tokens); on GRPO (paper also DAPO); lr suits the tiny policy",
)
def empg(sharpness: float = 1.0, clarity: float = 1.0, bonus: float = 0.05, clip: float = 0.2) -> Train:
    """GRPO with confident steps enlarged, uncertain ones shrunk, and a bonus for steps that lead to clear ones.

    ``sharpness`` 0 and ``bonus`` 0 are GRPO, less the mean of the batch.
    """
    modulated = partial(credit.entropy_modulation, sharpness=sharpness, clarity=clarity, bonus=bonus)
    term = Term(
        credit=(credit.group_normalise, modulated),
        surrogate=partial(objective.ppo_clip, clip_low=clip, clip_high=clip),
        weight=objective.sequence_mean,
    )
    return Train(reward=reward.outcome, segment={"step": credit.by_step}, terms=(term,), loop=Loop(samples=16, lr=1e-4))
