"""BARFI: how far a designer's heuristic may be trusted, learned through the policy that it trains."""

from __future__ import annotations

from functools import partial

from truegain.core.forms import Study
from truegain.core.system import system
from truegain.methods import reward


@system(
    "reward",
    paper="arXiv:2310.19007",
    cite="Gupta et al. 2023, Behavior alignment via reward function optimization",
    differs="a study on a small maze with known dynamics: returns, gradients and second derivatives are exact, not "
    "estimated from a buffer; the weights of the blend are three numbers, the same in every state; they start at the "
    "plain sum; the policy goes on from where it was instead of anew; the discount has no price (`price`, paper: "
    "chosen per environment); decay 0.01 suits returns of at most 1 (what is recalled of the paper: 0.25)",
)
def barfi(
    learn: bool = True,
    helpful: bool = False,
    seed: int = 0,
    outer_steps: int = 25,
    inner_steps: int = 15,
    terms: int = 5,
    decay: float = 0.01,
    price: float = 0.0,
) -> Study:
    """A blend of the true reward and a heuristic is moved so that the true return of the policy trained on it grows.

    ``learn=False`` is the plain sum of both. ``helpful`` chooses a heuristic that leads to the goal instead of astray.
    The other knobs are those of `reward.blend_study`, which says what is returned.
    """
    function = partial(reward.blend_study, learn=learn, helpful=helpful, seed=seed, outer_steps=outer_steps)
    return Study(partial(function, inner_steps=inner_steps, terms=terms, decay=decay, price=price))
