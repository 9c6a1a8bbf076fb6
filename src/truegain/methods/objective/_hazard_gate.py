from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import softplus

from truegain.core.component import component
from truegain.core.errors import SettingError


@component("surrogate", cite="arXiv:2603.16929")
def hazard_gate(
    logp: Float[Tensor, "B T"],
    old_logp: Float[Tensor, "B T"],
    advantage: Float[Tensor, "B T"],
    *,
    bound: float = 1.5,
    rise_shape: float = 1.5,
    rise_scale: float = 1.0,
    fall_shape: float = 2.0,
    fall_scale: float = 0.8,
    one_at_zero: bool = False,
    through: bool = False,
) -> tuple[Float[Tensor, "B T"], dict[str, Tensor]]:
    """MHPO: the log-ratio is squashed smoothly, and a hazard damps large shifts, falls more than rises.

    With ``l = logp - old_logp``:

        psi = c tanh(l / c)
        zeta = (softplus(psi) / lam_p)^k_p + (softplus(-psi) / lam_n)^k_n     (no gradient)
        L = -A exp(psi - zeta),  dL/dl = -A exp(psi - zeta) (1 - tanh^2(l / c))

    so that the weight is below ``exp(c)`` whatever l is, and no token loses its gradient to an edge.

    ``bound`` c, in nats; ``rise_shape`` k_p and ``rise_scale`` lam_p for tokens made likelier, ``fall_shape`` k_n and
    ``fall_scale`` lam_n for the others; all above 0. At l = 0 the hazard is not 0: with these defaults the weight there
    is 0.265, a factor of the learning rate; ``one_at_zero`` subtracts it, so that the ratio 1 weighs 1. ``through``
    lets the gradient pass through zeta. In float32 the gradient is above 0 for l up to about 9 c. Logs
    ``truegain/hazard_weight``, the mean weight.

    Raises SettingError for a knob that is not above 0. Source: MHPO 2026, section 3; no official code was found, zeta's
    stopped gradient is an independent implementation's.

    >>> import torch
    >>> change = torch.tensor([[-2.0, -0.5, 0.0, 0.5, 2.0]])
    >>> -hazard_gate(change, torch.zeros(1, 5), torch.ones(1, 5))[0].round(decimals=4)
    tensor([[0.0058, 0.1038, 0.2651, 0.4386, 0.4940]])
    """
    knobs = (bound, rise_shape, rise_scale, fall_shape, fall_scale)
    if not all(knob > 0 for knob in knobs):
        raise SettingError(
            f"hazard_gate: bound={bound}, rise_shape={rise_shape}, rise_scale={rise_scale}, fall_shape={fall_shape}, "
            f"fall_scale={fall_scale}; all must be above 0"
        )
    psi = bound * torch.tanh((logp - old_logp) / bound)
    felt = psi if through else psi.detach()
    hazard = (softplus(felt) / rise_scale) ** rise_shape + (softplus(-felt) / fall_scale) ** fall_shape
    if one_at_zero:
        still = math.log(2)
        hazard = hazard - (still / rise_scale) ** rise_shape - (still / fall_scale) ** fall_shape
    weight = torch.exp(psi - hazard)
    return -weight * advantage, {"truegain/hazard_weight": weight.detach()}
