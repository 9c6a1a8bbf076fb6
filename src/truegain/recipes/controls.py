"""Variants of any recipe: trained on the user's own reward functions, and blind, under a reward that knows nothing."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from truegain.core.forms import Train
from truegain.methods import reward


def on_user_score(form: Train) -> Train:
    """The form with the user's reward functions as its one reward."""
    return replace(form, reward=(reward.user_score,))


def blind(form: Train, rate: float = 0.5) -> Train:
    """The form under a random reward of mean ``rate``: what the optimiser does when nothing is to be learned."""
    return replace(form, reward=(partial(reward.random_reward, rate=rate),))
