"""Supervised fine-tuning on reference completions."""

from __future__ import annotations

from truegain.core.forms import Fit, Loop, Term
from truegain.core.system import system
from truegain.methods import objective


@system("objective", paper="none", cite="maximum likelihood on demonstrations")
def sft() -> Fit:
    """Maximum likelihood on the task's demonstrations, averaged over tokens."""
    return Fit(
        terms=(Term(surrogate=objective.negative_logp, weight=objective.token_mean),),
        loop=Loop(lr=1e-4, warmup=10, micro_tokens=4096),
    )
