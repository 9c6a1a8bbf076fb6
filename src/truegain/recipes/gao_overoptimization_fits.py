"""The scaling laws of reward-model over-optimisation."""

from __future__ import annotations

from truegain.core.forms import Measure
from truegain.core.system import system
from truegain.methods import evaluation


@system(
    "reward",
    paper="arXiv:2210.10760",
    cite="Gao, Schulman and Hilton 2022",
    differs="one curve at a time: how the coefficients scale with the size of the reward model is not fitted",
)
def gao_overoptimization_fits() -> Measure:
    """Fit gold against sqrt(KL): d (a - b d) for best-of-n, d (a - b log d) for RL, with the peak each predicts."""
    return Measure((evaluation.overoptimization_bon, evaluation.overoptimization_rl))
