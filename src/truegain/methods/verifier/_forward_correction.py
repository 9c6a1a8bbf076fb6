from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from truegain.core.component import component
from truegain.methods.verifier._rates import check_rates


@component("reward", cite="arXiv:2510.00915")
def forward_correction(reward: Float[Tensor, "B"], *, false_reject: float = 0.0) -> Float[Tensor, "B"]:
    """Forward correction: an accepted answer weighs ``rho1``, a rejected one ``rho1 - 1``, as the advantage.

    A right answer weighs 0 on average and a wrong one ``-(1 - rho0 - rho1)``, so with REINFORCE the gradient is that of
    the true reward times ``1 - rho0 - rho1``: only the rate ``false_reject`` rho1 of right answers that are rejected is
    needed, and the weights lie in [-1, 1]. Below 1, else SettingError.

    It is ``r + rho1 - 1``, so that every credit with a group's or a batch's mean cancels it: give the policy the reward
    itself (`return_to_go`). Modifies the reward so far, which must be the verdict alone.

    >>> import torch
    >>> forward_correction(torch.tensor([0.0, 1.0]), false_reject=0.3)
    tensor([-0.7000,  0.3000])
    """
    check_rates("forward_correction", 0.0, false_reject)
    return reward + (false_reject - 1)
