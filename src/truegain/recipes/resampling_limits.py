"""Limits of resampling with imperfect verifiers."""

from __future__ import annotations

from functools import partial

from truegain.core.forms import Study
from truegain.core.system import system
from truegain.methods import verifier


@system(
    "verifier",
    paper="arXiv:2411.17501",
    cite="Stroebl et al. 2024, inference scaling flaws",
    differs="a simulation of tasks whose accuracies follow Beta distributions, instead of HumanEval and MBPP; the "
    "exact expected reward (the released notebook uses the prior twice); the paper's fitted curves are not there",
)
def resampling_limits(soundness: float = 0.75, completeness: float = 1.0, wrong: float = -1.0, seed: int = 0) -> Study:
    """How far a weak model gets by trying until a weak test accepts, beside one try of a stronger model.

    ``soundness`` and ``completeness`` in [0, 1] are the test's chances to reject a wrong and to accept a right answer;
    ``wrong`` <= 0 is what an accepted wrong answer costs where a right one earns 1.
    """
    study = partial(verifier.resampling_study, soundness=soundness, completeness=completeness, wrong=wrong, seed=seed)
    return Study(study)
