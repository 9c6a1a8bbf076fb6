"""Thresholdout: a hold-out set that stays valid although it is asked again and again."""

from __future__ import annotations

from functools import partial

from truegain.core.forms import Study
from truegain.core.system import system
from truegain.methods import evaluation


@system(
    "evaluation",
    paper="arXiv:1411.2664",
    cite="Dwork et al. 2015; the algorithm is that of its companion, arXiv:1506.02629",
    differs="features are fair coins (source: normal), so that every question has answers in [0, 1]; noise is drawn by "
    "the number of the question, so that a saved state goes on alike; theorems about how many questions a set stands "
    "are not computed",
)
def thresholdout_holdout(
    threshold: float = 0.04, noise: float = 0.01, budget: int = 2000, rows: int = 2000, seed: int = 0
) -> Study:
    """What a hold-out says of features of pure noise that were chosen with its help, plain and through Thresholdout.

    ``threshold`` is how far training set and hold-out may lie apart before the hold-out speaks, ``noise`` the scale of
    its noise, ``budget`` how often it may speak. To guard a set of your own: `evaluation.ReusableHoldout`.
    """
    study = partial(evaluation.thresholdout_study, threshold=threshold, noise=noise, budget=budget, rows=rows)
    return Study(partial(study, seed=seed))
