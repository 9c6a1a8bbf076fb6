from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from truegain.core.component import component
from truegain.core.errors import SettingError
from truegain.methods.credit._steps import Steps, steps_of


@component("credit", cite="arXiv:2509.09265")
def entropy_modulation(
    advantage: Float[Tensor, "B T"],
    old_logp: Float[Tensor, "B T"],
    step: Int[Tensor, "B T"],
    mask: Bool[Tensor, "B T"],
    *,
    sharpness: float = 1.0,
    clarity: float = 1.0,
    bonus: float = 0.05,
    per: Literal["step", "token"] = "step",
    centre: bool = True,
    eps: float = 1e-8,
) -> tuple[Float[Tensor, "B T"], dict[str, Tensor]]:
    """Enlarge the credit of confident steps, shrink that of uncertain ones: a modifier of the credit before it.

    With H_s the uncertainty of step s and ``h = (H - min) / (max - min + eps)`` over the batch:

        g_s = exp(-k h_s) / mean exp(-k h)           (mean 1: the size of the update stays)
        f_s = exp(-k' h_{s+1}), 0 at a row's last step
        A'_s = A_s g_s + zeta f_s - mean(A g + zeta f)

    ``sharpness`` k and ``clarity`` k' are 0 or more, ``bonus`` zeta pays for a step that leads to a clear one. A_s is
    the mean of the given advantage over the step's tokens; all tokens of a step get A'. Statistics count every step
    once, or with ``per="token"`` every token. ``centre=False`` leaves the last mean in.

    H is the mean of ``-old_logp`` over the step's policy tokens: one sample of the paper's mean entropy, equal to it in
    expectation. Give minus the entropy of each token as ``old_logp`` to have the paper's own. Equal H: g is 1, and the
    bonus the same for all but last steps. Tokens outside every step get 0. Logs ``truegain/step_uncertainty`` (nats).

    Raises SettingError for knobs out of bounds. Source: Wang et al. 2025 (EMPG), section 4.

    >>> import torch
    >>> logp, step = -torch.tensor([[0.2, 0.5, 1.1, 2.0]]), torch.arange(4)[None]
    >>> one = torch.ones(1, 4)
    >>> entropy_modulation(one, logp, step, one.bool())[0].round(decimals=3)
    tensor([[ 0.4380,  0.2080, -0.1440, -0.5010]])
    """
    if min(sharpness, clarity) < 0 or per not in ("step", "token"):
        raise SettingError(
            f"entropy_modulation: sharpness={sharpness}, clarity={clarity} are 0 or more, per={per!r} step or token"
        )
    steps = steps_of(step, mask, advantage.dtype)
    share = steps.tokens if per == "token" else steps.present.to(advantage.dtype)
    share = share / share.sum().clamp(min=1)
    uncertainty = -steps.mean(old_logp)
    scaled = _unit_range(uncertainty, steps.present, eps)
    size = torch.exp(-sharpness * scaled)
    gain = size / (size * share).sum().clamp(min=1e-30)
    ahead = _next_step(torch.exp(-clarity * scaled), steps)
    value = steps.mean(advantage) * gain + bonus * ahead
    if centre:
        value = value - (value * share).sum()
    said = uncertainty[steps.present]
    return steps.to_tokens(value), {"truegain/step_uncertainty": said.mean() if said.numel() else said.sum()}


def _unit_range(values: Tensor, present: Tensor, eps: float) -> Tensor:
    chosen = values[present]
    if not chosen.numel():
        return torch.zeros_like(values)
    low, high = chosen.min(), chosen.max()
    return torch.where(present, (values - low) / (high - low + eps), torch.zeros_like(values))


def _next_step(values: Tensor, steps: Steps) -> Tensor:
    """What the row's next present step has, [B,S]; 0 where there is none."""
    following = torch.zeros_like(values)
    carried = torch.zeros(values.shape[0], dtype=values.dtype, device=values.device)
    for s in reversed(range(values.shape[1])):
        following[:, s] = carried
        carried = torch.where(steps.present[:, s], values[:, s], carried)
    return following
