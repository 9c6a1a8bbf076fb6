"""DTO: traces cut where they are good enough and thinned out, preferred to what they were."""

from __future__ import annotations

from functools import partial

from truegain.core.forms import Decode, Fit, Loop
from truegain.core.system import system
from truegain.methods import length, preference
from truegain.methods.length import REFLECTIONS


@system(
    "length",
    paper="arXiv:2505.21765",
    cite="An et al. 2025, Don't Think Longer, Think Wisely",
    differs="the threshold, the number of forced answers and SimPO's beta and gamma are not published: 0.75, 4, and "
    "those of `preference.simpo`; what can be taken out is found by taking it out, not by an auxiliary model's labels; "
    "thoughts begin at lines that begin with a word of this library's list; lr suits the tiny policy",
)
def dto(
    threshold: float = 0.75,
    samples: int = 4,
    prune: bool = True,
    words: tuple[str, ...] = REFLECTIONS,
) -> tuple[Decode, Fit]:
    """The model's own traces, cut at the first thought after which a forced answer is right, against what they were.

    A thought is good enough when ``threshold`` of ``samples`` answers forced after it are right; ``prune`` takes out
    thoughts that the answer can do without. SimPO then prefers the shortest right result to the longest wrong trace, or
    to the longest.
    """
    optimise = partial(length.exit_and_prune, threshold=threshold, samples=samples, prune=prune, words=words)
    return (
        Decode(search=optimise, loop=Loop(steps=20, prompts=16, samples=4)),
        Fit(terms=(), pair=preference.simpo, loop=Loop(steps=100, lr=1e-5, warmup=10)),
    )
