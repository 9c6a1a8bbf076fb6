"""D2-Align: a direction of the reward's embedding is corrected before a policy is trained against it."""

from __future__ import annotations

from functools import partial

from truegain.core.forms import Study
from truegain.core.system import system
from truegain.methods import reward
from truegain.methods.reward import Correction


@system(
    "reward",
    paper="arXiv:2512.24146",
    cite="Chen et al. 2025, Taming preference mode collapse via directional decoupling alignment",
    differs="a study on a bandit of embeddings with a planted bias, not an image generator with HPS-v2.1; no code is "
    "published, the formulas are from two accounts of the paper, which leave open whether the corrected direction is "
    "scaled back to length 1: here it is (`renormalise`), as the dot product of the other reading can grow without the "
    "direction getting better; expectations over outputs are exact; stage 1 has 200 steps at 0.01 (paper: about 2000)",
)
def d2_align(
    correction: Correction = "learned",
    seed: int = 0,
    bias: float = 1.0,
    omega: float = 1.5,
    renormalise: bool = True,
    beta: float = 0.02,
) -> Study:
    """A vector added to every prompt's embedding is learned on a frozen policy; then the policy is trained.

    ``correction`` is ``learned``, ``none``, ``reversed`` or ``random``, ``omega`` how far guidance goes, ``beta`` the
    weight of the KL to the start. `reward.direction_study` says what is returned.
    """
    function = partial(reward.direction_study, correction=correction, seed=seed, bias=bias, omega=omega)
    return Study(partial(function, renormalise=renormalise, beta=beta))
