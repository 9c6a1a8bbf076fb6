from __future__ import annotations

from typing import Literal

from jaxtyping import Bool, Float, Int
from torch import Tensor

from truegain.core import segments
from truegain.core.component import component
from truegain.core.errors import SettingError
from truegain.core.kl import kl_estimate
from truegain.methods.objective._groups import row_means


@component("surrogate", cite=("arXiv:2510.04474", "Optimization-AI/DRPO kl_type"))
def kl_hinge(
    logp: Float[Tensor, "B T"],
    old_logp: Float[Tensor, "B T"],
    group: Int[Tensor, "B"],
    mask: Bool[Tensor, "B T"],
    *,
    beta: float = 1000.0,
    delta: float = 1e-4,
    estimator: Literal["plain", "low_var"] = "plain",
) -> tuple[Float[Tensor, "B T"], dict[str, Tensor]]:
    """A trust region without a clip: nothing within ``delta`` of the policy that drew, beyond it a pull back.

    Per group, summed over its tokens: ``sg[max(beta * (KL - delta), 0)] * KL``, with KL the mean over the group's
    tokens of ``old_logp - logp`` (``plain``) or ``rho - 1 - log rho`` (``low_var``), in nats. The size of the group's
    gradient grows with the excess; in the sampling policy itself KL is 0 and so is the gradient. ``beta`` >= 0.

    Logs ``kl_old``. Raises SettingError for an unknown estimator. Sum it by `group_mean`. Source: Li et al. 2025, the
    constraint of the objective.

    >>> import torch
    >>> logp, whole = torch.tensor([[-0.5, -0.7]]), torch.ones(1, 2, dtype=torch.bool)
    >>> loss, _ = kl_hinge(logp, torch.full((1, 2), -0.5), torch.tensor([0]), whole, beta=10.0, delta=0.05)
    >>> round(float(loss.sum()), 4)  # KL = 0.1, 10 * (0.1 - 0.05) * 0.1
    0.05
    """
    if estimator not in ("plain", "low_var"):
        raise SettingError(f"kl_hinge: estimator={estimator!r}; it is plain or low_var")
    inverse = "k1" if estimator == "plain" else "k3"
    kl = kl_estimate(old_logp, logp, inverse, 20.0, float("inf"), "kl_hinge")
    mean, count = row_means(kl, mask)
    group = segments.dense(group)
    tokens = segments.total(count.to(mean.dtype), group).clamp(min=1)
    of_group = segments.total(mean * count, group) / tokens
    pull = (beta * (of_group.detach() - delta)).clamp(min=0)
    return segments.spread(pull / tokens, group)[:, None] * kl, {"kl_old": kl}
