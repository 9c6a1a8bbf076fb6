from __future__ import annotations

from jaxtyping import Float
from torch import Tensor


def ratio_norm(
    sample: Float[Tensor, "B T D"],
    mean: Float[Tensor, "B T D"],
    old_mean: Float[Tensor, "B T D"],
    deviation: Float[Tensor, "T"],
) -> tuple[Float[Tensor, "B T"], Float[Tensor, "B T"]]:
    """Log-ratios of Gaussian steps as they are, and normalised: ``(l, (l + b) * s)``, both differentiable in ``mean``.

    ``l`` is the mean over D of ``log N(x; mu, s^2) - log N(x; mu_old, s^2)``, ``b`` the mean over D of
    ``(mu - mu_old)^2 / (2 s^2)``. As ``l + b = mean_D (x - mu_old) (mu - mu_old) / s^2``, it is 0 on average under the
    old policy, where l is -b: the ratio is no longer below 1 before anything was learned. Times ``s``, its deviation is
    that of the shift of the mean alone, whatever the noise of the step, and one clip serves all steps.

    ``sample`` is what the old policy drew, ``deviation`` s above 0 (``sqrt(dt) * sigma``). Either value goes into any
    clipped surrogate as ``logp``, with 0 as ``old_logp``. Source: GRPO-Guard 2025 (RatioNorm).

    >>> import torch
    >>> x, shift = torch.tensor([[[0.05, -0.1, 0.02]]]), torch.full((1, 1, 3), 0.03)
    >>> raw, normalised = ratio_norm(x, shift, torch.zeros(1, 1, 3), torch.tensor([0.14]))
    >>> round(float(raw), 4), round(float(normalised.exp()), 4)
    (-0.0383, 0.9979)
    """
    scale = deviation[:, None]
    raw = ((sample - old_mean) ** 2 - (sample - mean) ** 2) / (2 * scale**2)
    bias = (mean - old_mean) ** 2 / (2 * scale**2)
    raw, bias = raw.mean(dim=2), bias.mean(dim=2)
    return raw, (raw + bias) * deviation


def step_balance(width: Float[Tensor, "T"]) -> Float[Tensor, "T"]:
    """The factor of each step's loss that makes gradients of steps of unequal ``width`` dt alike: ``1 / dt``.

    >>> import torch
    >>> step_balance(torch.tensor([0.5, 0.25]))
    tensor([2., 4.])
    """
    return 1 / width
