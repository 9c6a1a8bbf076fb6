"""Variants of any recipe: trained on the user's own reward functions, and blind, under a reward that knows nothing."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from truegain.core.component import Member, spec_of
from truegain.core.forms import Train, members
from truegain.methods import reward


def on_user_score(form: Train) -> Train:
    """The form with the user's reward functions in the place of the checker; what shapes the reward stays."""
    return replace(form, reward=(reward.user_score, *_shaping(form)))


def with_user_score(form: Train) -> Train:
    """The form with the user's reward functions beside the checker, before what shapes the sum."""
    first, *rest = members(form.reward)
    return replace(form, reward=(first, reward.user_score, *rest))


def blind(form: Train, rate: float = 0.5) -> Train:
    """The form under a random reward of mean ``rate``: what the optimiser does when nothing is to be learned."""
    return replace(form, reward=(partial(reward.random_reward, rate=rate), *_shaping(form)))


def _shaping(form: Train) -> tuple[Member, ...]:
    """The form's rewards beside the verdict: penalties on length, on distance to a reference."""
    verdicts = {"outcome", "user_score", "random_reward"}
    return tuple(member for member in members(form.reward) if spec_of(member).name not in verdicts)
