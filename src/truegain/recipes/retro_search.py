"""Retro-Search: revise traces where they changed their mind, then learn the revised ones."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from truegain.core.forms import Decode, Fit, Loop, Role
from truegain.core.system import system
from truegain.methods import length
from truegain.methods.length import REFLECTIONS
from truegain.recipes.sft import sft


@system(
    "length",
    paper="arXiv:2504.04383",
    cite="Lu et al. 2025, Retro-Search",
    differs="steps are lines (paper: blank-line paragraphs: boundary); the words that begin a thought are this "
    "library's list, as the paper's is not known in full; the ban on them in the next step is by rejection, up to "
    "`tries` continuations per thought, which samples the same distribution where one is found; gamma and one "
    "continuation per thought are recalled, not verified; only right traces are learned (keep=all for the others)",
)
def retro_search(
    gamma: float = 0.9,
    samples: int = 1,
    tries: int = 4,
    words: tuple[str, ...] = REFLECTIONS,
    boundary: str = "\n",
    reviser: str = "",
) -> tuple[Decode, Fit]:
    """The model's own traces are revised thought by thought, had it not changed its mind, and are then learned.

    ``gamma`` discounts the value of a right answer per remaining step. ``samples`` endings per thought are compared, of
    ``tries`` drawn. ``words`` begin a thought, ``boundary`` ends a step. ``reviser`` names another model that writes
    the new endings (weak to strong); empty for the model itself.
    """
    roles = {"reviser": Role(source=reviser, fills="ref_logp")} if reviser else {}
    revise = partial(
        length.retro_search,
        gamma=gamma,
        samples=samples,
        tries=tries,
        words=words,
        boundary=boundary,
        role="reviser" if reviser else "policy",
    )
    return (
        Decode(search=revise, roles=roles, loop=Loop(steps=20, prompts=16, samples=2)),
        replace(sft(), loop=Loop(steps=100, lr=1e-4, warmup=10)),
    )
