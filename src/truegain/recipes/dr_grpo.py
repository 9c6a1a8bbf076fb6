"""Dr. GRPO: GRPO without its two divisions."""

from __future__ import annotations

from functools import partial

from truegain.core.forms import Loop, Term, Train
from truegain.core.system import system
from truegain.methods import credit, objective, reward


@system(
    "objective",
    paper="arXiv:2503.20783",
    cite="Liu et al. 2025, Understanding R1-Zero-like training",
    differs="one optimiser step per batch, as the paper's, of 16 samples per prompt (paper 8); rows without a token do "
    "not count in the denominator (TRL counts them); lr suits the tiny policy",
)
def dr_grpo(clip: float = 0.2) -> Train:
    """Rewards centred within the samples of a prompt, in a clipped loss summed over a constant.

    Neither the spread of a prompt's rewards nor the length of a completion divides anything: hard and easy prompts are
    not magnified, and a long wrong answer is punished at every token as a short one is. No reference penalty. ``clip``
    bounds the ratio.
    """
    term = Term(
        credit=partial(credit.group_normalise, std="none"),
        surrogate=partial(objective.ppo_clip, clip_low=clip, clip_high=clip),
        weight=objective.limit_mean,
    )
    return Train(reward=reward.outcome, terms=(term,), loop=Loop(samples=16, lr=1e-4))
