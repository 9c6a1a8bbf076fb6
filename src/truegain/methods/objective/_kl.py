"""Estimates of KL(policy || reference) from one sample per token, shared by the penalties."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from truegain.core.errors import SettingError

Estimator = Literal["k1", "k2", "k3", "abs", "k1+", "k3+", "abs+"]


def kl_estimate(
    logp: Tensor, ref_logp: Tensor, estimator: str, log_ratio_bound: float, bound: float, who: str
) -> Tensor:
    """The estimate at each token, in nats, shape of ``logp``; see `kl_to_reference` for the formulas.

    Raises SettingError, naming the component ``who``, for an unknown estimator.
    """
    d = logp - ref_logp
    if estimator == "k1":
        return d
    if estimator == "abs":
        return d.abs()
    if estimator == "k2":
        return d * d / 2
    if estimator == "k3":
        near = d.clamp(-log_ratio_bound, log_ratio_bound)
        return (torch.expm1(-near) + near).clamp(max=bound)
    if estimator in ("k1+", "k3+", "abs+"):
        value = kl_estimate(logp, ref_logp, estimator[:-1], log_ratio_bound, bound, who).detach()
        carrier = d * d / 2
        return value + (carrier - carrier.detach())
    raise SettingError(f"{who}: estimator={estimator!r}; it is k1, k2, k3, abs, k1+, k3+ or abs+")
