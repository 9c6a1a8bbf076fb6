"""ADORA: advantages weighed by whether thinking longer pays for the prompt."""

from __future__ import annotations

from functools import partial

from truegain.core.forms import Loop, Term, Train
from truegain.core.system import system
from truegain.methods import credit, objective, reward


@system(
    "credit",
    paper="arXiv:2602.10019",
    cite="Ren et al. 2026, ADORA",
    differs="right is what the exact checker says (source: a score above 1.01, format points included); a wrong answer "
    "counts below 99 % of the token limit (source 4054 tokens); no KL penalty; the rule for images is "
    "`credit.attenuate_by_length.rule=image`, the paper's difficulty weights are not built; lr suits the tiny policy",
)
def adora(factor: float = 0.1, clip: float = 0.2) -> Train:
    """GRPO whose groups are weighed down where no right answer is longer than the mean wrong one.

    ``factor`` is the weight of such a group; 1 is GRPO.
    """
    term = Term(
        credit=(credit.group_normalise, partial(credit.attenuate_by_length, factor=factor)),
        surrogate=partial(objective.ppo_clip, clip_low=clip, clip_high=clip),
        weight=objective.sequence_mean,
    )
    return Train(reward=reward.outcome, terms=(term,), loop=Loop(samples=16, lr=1e-4))
