"""SPAE: step potential advantage estimation."""

from __future__ import annotations

from functools import partial

from truegain.core.forms import Loop, Term, Train
from truegain.core.system import system
from truegain.methods import credit, objective, reward


@system(
    "credit",
    paper="arXiv:2601.03823",
    cite="Wu et al. 2026, SPAE",
    differs="correctness is the share of right forced answers (paper: mean probability of the reference answer's "
    "tokens), confidence is exp of their mean log-prob at the probe's temperature (paper: of minus the mean entropy "
    "over the top 20); a step is a line; the saturated steps before the step are counted "
    "(`potential_shaping.counted`); the last z-score counts tokens; answers have 32 tokens (paper 10); lr suits "
    "the tiny policy",
)
def spae(
    damping: float = 0.5, bonus: float = 0.5, saturated: float = 0.9, samples: int = 5, clip: float = 0.2
) -> Train:
    """An answer forced after every step says how far the reasoning is: progress is paid, checking after it damped.

    ``damping`` in [0, 1] and ``bonus`` >= 0 weigh the two; ``saturated`` is the potential at which the answer counts as
    settled. ``samples`` answers are forced after each step. ``clip`` bounds the ratio. What ends the thought belongs to
    its last step: were it a step of its own, it would be damped as one more check, and checking would be paid.
    """
    term = Term(
        credit=(
            partial(credit.group_normalise, std="none"),
            partial(credit.potential_shaping, damping=damping, bonus=bonus, saturated=saturated),
            credit.whiten,
        ),
        surrogate=partial(objective.ppo_clip, clip_low=clip, clip_high=clip),
        weight=objective.token_mean,
    )
    return Train(
        reward=reward.outcome,
        segment={"step": partial(credit.by_step, closing="")},
        probe=partial(credit.forced_answers, samples=samples),
        terms=(term,),
        loop=Loop(samples=8, lr=1e-4),
    )
