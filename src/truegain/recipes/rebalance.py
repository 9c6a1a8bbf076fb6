"""ReBalance: steer a model's thoughts while it decodes, by how sure it is and how much that changes."""

from __future__ import annotations

from functools import partial

from truegain.core.forms import Decode, Loop, Study
from truegain.core.system import system
from truegain.methods import length


@system(
    "length",
    paper="arXiv:2603.12372",
    cite="Li et al. 2026, Efficient Reasoning with Balanced Thinking",
    differs="how far to steer is read off the traces by our rule (`fit_balance`), as the published one is not known, "
    "only its numbers per model; layers count blocks from 0, and the last block is left out; steps end with a line in "
    "the embedded tasks (paper: a blank line: boundary); the study reads traces of the same model on the train split "
    "(paper: 500 of MATH)",
)
def rebalance(
    boundary: str = "\n",
    opening: str = "<think>",
    closing: str = "</think>",
    traces: int = 256,
    hard_high: float = 0.1,
) -> tuple[Decode, Study, Decode]:
    """Traces, what they say of sure and unsure steps, and decoding with hidden states pushed at the steps' ends.

    ``boundary`` ends a step; the thought lies between ``opening`` and ``closing``, one token each. ``traces`` are drawn
    for the fit. ``hard_high`` >= 0 pushes towards reflection where the model stays sure throughout. Nothing is
    trained. The direction is a file of the study's folder, which also sets the decoding form's numbers.
    """
    marks = {"boundary": boundary, "opening": opening, "closing": closing}
    loop = Loop(steps=max(traces // 16, 1), prompts=16, samples=1, temperature=0.7)
    return (
        Decode(loop=loop),
        Study(partial(length.fit_balance, **marks)),
        Decode(sampler=partial(length.steer_balanced, hard_high=hard_high, **marks), loop=loop),
    )
