"""DCO: direct coverage optimisation, fine-tuning for many tries by limiting confidence."""

from __future__ import annotations

from functools import partial

from truegain.core.forms import Fit, Loop, Term
from truegain.core.system import system
from truegain.methods import objective


@system(
    "objective",
    paper="arXiv:2502.07154",
    cite="Chen et al. 2025, Rethinking fine-tuning when scaling test-time compute",
    differs="the factor is of the whole demonstration's probability; the paper's approximation for chains of thought "
    "(the probability of the answer, by sampling) and its step-wise form for proofs are not here, as the paper does "
    "not fix them; lr suits the tiny policy (paper 2e-5)",
)
def dco_limit_confidence(tries: int = 64) -> Fit:
    """Fine-tuning for pass@N: a demonstration that ``tries`` samples would find anyway is not sharpened further.

    ``tries`` is N, the budget of samples at test time, 16 to 256 in the paper; 1 is maximum likelihood, summed over
    tokens and averaged over rows.
    """
    term = Term(surrogate=partial(objective.coverage, tries=tries), weight=objective.sequence_sum)
    return Fit(terms=(term,), loop=Loop(lr=1e-4, warmup=10, micro_tokens=4096))
