from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from truegain.core.component import component
from truegain.methods.verifier._rates import check_rates


@component("reward", cite="arXiv:2510.00915")
def unbiased_verdict(
    reward: Float[Tensor, "B"], *, false_accept: float = 0.0, false_reject: float = 0.0
) -> Float[Tensor, "B"]:
    """Backward correction: the 0/1 verdict of an imperfect checker, made right on average.

    ``r' = (r - rho0) / (1 - rho0 - rho1)``, so that ``E[r' | truth] = truth``; it may lie outside of [0, 1], and its
    variance grows as ``1 / (1 - rho0 - rho1)^2``. ``false_accept`` rho0 is the chance that a wrong answer is accepted,
    ``false_reject`` rho1 that a right one is rejected; together below 1, else SettingError.

    With rates that are the same for all, this is an affine map, so any credit that divides by a group's deviation
    cancels it exactly, and one that only subtracts the mean keeps a factor of the learning rate: use it where the scale
    between prompts or the thresholds of a filter matter, without normalisation, or with rates that differ
    (`unbiased_by_prompt`). Modifies the reward so far, which must be the verdict alone.

    >>> import torch
    >>> unbiased_verdict(torch.tensor([0.0, 1.0]), false_accept=0.1, false_reject=0.3)
    tensor([-0.1667,  1.5000])
    """
    check_rates("unbiased_verdict", false_accept, false_reject)
    return (reward - false_accept) / (1 - false_accept - false_reject)
