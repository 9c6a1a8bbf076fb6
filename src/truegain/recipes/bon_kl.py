"""Best-of-n: what it is worth and how far it goes."""

from __future__ import annotations

from functools import partial

from truegain.core.forms import Measure
from truegain.core.system import system
from truegain.methods import evaluation


@system("reward", paper="arXiv:2210.10760", cite="Stiennon et al. 2020, appendix G.3; Nakano et al. 2021")
def bon_kl(n: int = 16) -> Measure:
    """Expected score of the best of n from N samples, without drawing again, and its KL from the policy."""
    return Measure((partial(evaluation.best_of_n, n=n), evaluation.best_of_n_kl))
