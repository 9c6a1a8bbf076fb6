"""IRD-ERD: what a thought repeats before the answer, and what comes after it, are two things to pay for."""

from __future__ import annotations

from functools import partial
from typing import Literal

from truegain.core.forms import Loop, Term, Train
from truegain.core.system import system
from truegain.methods import credit, length, objective


@system(
    "length",
    paper="arXiv:2508.02178",
    cite="Hong et al. 2025, Reconsidering Overthinking",
    differs="the two factors are multiplied, as in the paper (its code takes their mean: combine=mean); sentences are "
    "compared by hashed bags of words (paper: a sentence encoder; `length.register_embedding` adds one); a one-digit "
    "answer is looked for as well (the source keeps to answers of two digits or more, as one digit is found in any "
    "arithmetic); one optimiser step per batch; lr suits the tiny policy (source 1e-6)",
)
def ird_erd(
    combine: Literal["product", "mean"] = "product",
    use: Literal["both", "internal", "external"] = "both",
    centre: float = 0.3,
    steepness: float = 20.0,
    embed: str = "words",
    clip_low: float = 0.2,
    clip_high: float = 0.28,
) -> Train:
    """A right answer earns less the more its thought repeats itself before stating it, and the more goes on after it.

    ``use`` leaves one of the two factors out, ``combine`` multiplies or averages them. ``centre`` and ``steepness`` say
    how much repetition is too much: at the default hardly any below 0.6. ``embed`` names the embedding of sentences,
    ``clip_low`` and ``clip_high`` bound the ratio. Needs traces that state the answer as it stands.
    """
    term = Term(
        credit=credit.group_normalise,
        surrogate=partial(objective.ppo_clip, clip_low=clip_low, clip_high=clip_high),
        weight=objective.token_mean,
    )
    return Train(
        probe=partial(length.redundancy_of, embed=embed),
        reward=partial(length.discount_redundancy, combine=combine, use=use, centre=centre, steepness=steepness),
        terms=(term,),
        loop=Loop(samples=8, temperature=0.6, lr=1e-4),
    )
