"""IGPO: information gain-based policy optimisation."""

from __future__ import annotations

from functools import partial
from typing import Literal

from truegain.core.errors import SettingError
from truegain.core.forms import Loop, Term, Train
from truegain.core.system import system
from truegain.methods import credit, objective, reward


@system(
    "credit",
    paper="arXiv:2510.14967",
    cite="Wang et al. 2025, IGPO",
    differs="a turn is a line of the trace, or with delimiter='</tool>' what ends with a tool call, and the answer is "
    "the last; the outcome is an exact check (paper F1); one reference answer per problem; normalise='paper' pools all "
    "turns of a group, 'code' subtracts the group's mean return at the same turn, as the published trainer does by "
    "position; no KL penalty (paper 0.001); lr suits the tiny policy",
)
def igpo(
    normalise: Literal["paper", "code"] = "paper",
    gamma: float = 1.0,
    malformed: float = -2.0,
    delimiter: str = "\n",
    clip: float = 0.2,
) -> Train:
    """Each turn earns what it adds to the policy's own probability of the right answer, the last one the outcome.

    ``gamma`` in [0, 1] discounts later turns. ``malformed`` is the outcome without a well-formed answer. ``delimiter``
    ends a turn. ``clip`` bounds the ratio.
    """
    if normalise not in ("paper", "code"):
        raise SettingError(f"igpo: normalise={normalise!r}; it is paper or code")
    returns = partial(credit.step_returns, gamma=gamma, before="group")
    if normalise == "code":
        returns = partial(credit.step_returns, gamma=gamma, after="place", scale=False)
    term = Term(
        credit=returns,
        surrogate=partial(objective.ppo_clip, clip_low=clip, clip_high=clip),
        weight=objective.sequence_mean,
    )
    return Train(
        reward=(reward.outcome, partial(reward.malformed, value=malformed)),
        segment={"step": partial(credit.by_step, delimiter=delimiter)},
        probe=credit.information_gain,
        terms=(term,),
        loop=Loop(samples=16, lr=1e-4),
    )
