"""GRPO-Guard: ratios of flow policies without their bias and their step-dependent scale."""

from __future__ import annotations

from functools import partial

from truegain.core.forms import Study
from truegain.core.system import system
from truegain.methods import credit, objective


@system(
    "objective",
    paper="arXiv:2510.22319",
    cite="GRPO-Guard 2025",
    differs="a study on a four-step flow of points in the plane, with a proxy of our own, instead of an image model; "
    "the noise of a step is exact (source: the batch mean of the scheduler's); clip 0.05 (source 2e-6 to 1e-4, for "
    "means over many dimensions, and different for each model)",
)
def grpo_guard(
    guard: bool = True, seed: int = 0, updates: int = 20, lr: float = 2.0, clip: float = 0.05, beta: float = 0.0
) -> Study:
    """A small flow policy trained with the normalised ratio, or with the plain one.

    ``guard=False`` is Flow-GRPO. ``updates``, ``lr``, ``clip`` and ``beta`` (penalty to the start) as in
    `objective.flow_study`, which says what is returned.
    """
    whitened = partial(credit.group_normalise, bound=5.0)
    function = partial(objective.flow_study, credit=whitened, guard=guard, seed=seed, updates=updates, lr=lr)
    return Study(partial(function, clip=clip, beta=beta))
