"""Dualformer: one model that answers at once or thinks first, from traces of which random parts are left out."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from truegain.core.forms import Fit, Loop
from truegain.core.system import system
from truegain.methods import length
from truegain.recipes.sft import sft


@system(
    "length",
    paper="arXiv:2410.09918",
    cite="Su et al. 2024, Dualformer",
    differs="clauses are lines, and what counts as closing and as cost is told for the embedded tasks' traces: checks "
    "and wrong turns, and the sums before a result (paper: `close` clauses and the two costs of A* traces on mazes and "
    "Sokoban: closes and costs of `drop_trace`); level 3 is built on level 1, as in the code for mazes (the paper: on "
    "level 2); the mix of levels is recalled, not verified; every use of an example is drawn anew, in the code for "
    "Sokoban once per example",
)
def dualformer(
    chances: tuple[float, float, float, float] = (0.1667, 0.1667, 0.1667, 0.05),
    clause: str = r"[^\n]+\n?(?:no back\n?)?",
    closes: str = r"check |[^\n]*\nno back",
    costs: str = r"(?<==)[^=\n]*=|\+[0-9]+(?==)",
    share: tuple[int, int] = (10, 40),
    on: int = 1,
) -> Fit:
    """Maximum likelihood on demonstrations whose traces lose random parts at one of four levels, anew at each use.

    ``chances`` are those of the levels; the rest of 1 keeps the whole trace. ``clause`` is a line, with the line that
    takes it back; ``closes`` and ``costs`` are what levels 1
    and 2 take out, ``share`` the percent of lines that level 3 does on level ``on``. Afterwards the first token
    decides: `length.force_first` with ``<answer>`` answers at once, with ``<think>`` thinks; without it the model
    chooses.
    """
    edit = partial(length.drop_trace, chances=chances, clause=clause, closes=closes, costs=costs, share=share, on=on)
    return replace(sft(), edit=edit, loop=Loop(steps=200, lr=1e-4, warmup=10))
