"""Estimates of KL(policy || reference) from one sample per token, shared by the penalties in losses and in rewards.

What each gives as a gradient, with ``x = log pi(a) - log ref(a)``, ``a ~ pi``, for one choice:

| | as a loss, through ``x`` | in a reward: its value times ``grad log pi(a)`` |
|---|---|---|
| k1 ``x`` | 0 | grad KL(pi, ref) |
| k2 ``x^2 / 2`` | grad KL(pi, ref) | grad E[k2] - grad KL(pi, ref): of the second order in x |
| k3 ``exp(-x) - 1 + x`` | grad KL(ref, pi) | grad KL(pi, ref) - grad KL(ref, pi): of the second order in x |

As a loss over the tokens of a sequence each term sees its own token only: k2 gives the gradient of the KL of every next
token under the prefixes that were drawn, not of how they were come by. A penalty in the reward of the whole completion,
or of what is to come, counts that too.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from truegain.core.errors import SettingError

Estimator = Literal["k1", "k2", "k3", "abs", "k1+", "k3+", "abs+"]


def kl_estimate(
    logp: Tensor, ref_logp: Tensor, estimator: str, log_ratio_bound: float, bound: float, who: str
) -> Tensor:
    """The estimate at each token, in nats, shape of ``logp``; see `objective.kl_to_reference` for the formulas.

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
