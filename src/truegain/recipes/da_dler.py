"""DA-DLER: DLER, then a tighter limit where problems are easy, then the largest changes grafted back."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from truegain.core.forms import Study, Train
from truegain.core.system import system
from truegain.methods import length
from truegain.recipes.dler import dler


@system(
    "objective",
    paper="arXiv:2510.15110",
    cite="Liu et al. 2025, difficulty-aware DLER and update-selective merging",
    differs="what is merged is the second stage's model with the one that the recipe began with; the source does not "
    "say whether the largest changes are those of each tensor or of all together (per, of the merge); else as dler",
)
def da_dler(easy: float = 0.5, steps: int = 150, keep: float = 0.25, scale: float = 0.7) -> tuple[Train, Train, Study]:
    """DLER, ``steps`` more of it with a tighter limit for easy problems, and a merge with the model before training.

    ``easy`` is that limit for problems that half of the samples solve, as a share of the token limit. The merge keeps
    the share ``keep`` of the weights' changes that are largest, at ``scale``; 1 and 1 leave the trained ones.
    """
    tighter = dler(easy=easy)
    tighter = replace(tighter, loop=tighter.loop.model_copy(update={"steps": steps}))
    return dler(), tighter, Study(partial(length.merge_updates, keep=keep, scale=scale))
