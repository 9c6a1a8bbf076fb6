from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from truegain.core.component import component
from truegain.core.errors import SettingError
from truegain.methods.credit._steps import Steps, steps_of


@component("credit", cite="arXiv:2601.03823")
def potential_shaping(
    advantage: Float[Tensor, "B T"],
    probe_correct: Float[Tensor, "B S"],
    probe_confidence: Float[Tensor, "B S"],
    step: Int[Tensor, "B T"],
    mask: Bool[Tensor, "B T"],
    *,
    damping: float = 0.5,
    bonus: float = 0.5,
    saturated: float = 0.9,
    counted: Literal["before", "up_to"] = "before",
) -> tuple[Float[Tensor, "B T"], dict[str, Tensor]]:
    """Pay for steps that bring the answer nearer, and damp the outcome once it is settled: a modifier.

    With a = ``probe_correct`` and c = ``probe_confidence`` of the answer forced after step s:

        Phi_s = 1.5 a c + 0.5 a - c                      in [-1, 1]: sure and wrong -1, sure and right 1
        f_s   = 1 - alpha (1 - exp(-C_s))                C_s the number of earlier steps with Phi > ``saturated``
        g_s   = exp(d_s) - mean exp(d)                   d the increments of Phi, scaled to [0, 1] over the batch
        A'_s  = A_s f_s + xi g_s                         A_s the mean of the given advantage over the step's tokens

    ``damping`` alpha in [0, 1], ``bonus`` xi >= 0: both 0 leave the advantage as it is. A row's first increment is 0.
    Statistics count every step of the batch once; equal increments give g = 0. ``counted="up_to"`` counts the step's
    own saturation too. All tokens of a step share its A', tokens outside every step keep theirs. A step whose probe
    says NaN has the potential of the step before it (0 at the first). The z-score after it is `whiten`.

    Logs ``truegain/potential`` (mean), ``truegain/checking_tokens`` (tokens per row after the first saturated step) and
    ``truegain/right_to_wrong`` (share of rows that were saturated once and end with Phi < 0).
    Raises SettingError for knobs out of bounds. Source: Wu et al. 2026 (SPAE), section 3.

    >>> import torch
    >>> right, sure, step = torch.tensor([[0.0, 1.0, 1.0]]), torch.tensor([[0.5, 1.0, 1.0]]), torch.arange(3)[None]
    >>> potential_shaping(torch.full((1, 3), 0.5), right, sure, step, step >= 0)[0].round(decimals=3)
    tensor([[0.2140, 1.0730, 0.0560]])
    """
    if not 0 <= damping <= 1 or bonus < 0 or counted not in ("before", "up_to"):
        raise SettingError(
            f"potential_shaping: damping={damping} must be in [0, 1], bonus={bonus} 0 or more, counted before or up_to"
        )
    steps = steps_of(step, mask, advantage.dtype)
    potential = _potential(probe_correct, probe_confidence, steps)
    settled = (potential > saturated) & steps.present
    count = settled.to(advantage.dtype).cumsum(1)
    if counted == "before":
        count = count - settled.to(advantage.dtype)
    keep = 1 - damping * (1 - torch.exp(-count))
    value = steps.mean(advantage) * keep + bonus * _increments(potential, steps)
    out = torch.where(steps.ids >= 0, steps.to_tokens(value), advantage)
    return out, _said(potential, settled, steps)


def _potential(right: Tensor, sure: Tensor, steps: Steps) -> Tensor:
    """Phi [B,S] of the present steps; what is not known, or no step, has the potential before it."""
    raw = 1.5 * right * sure + 0.5 * right - sure
    width = steps.present.shape[1]
    if raw.shape[1] < width:
        raw = torch.nn.functional.pad(raw, (0, width - raw.shape[1]), value=float("nan"))
    known = steps.present & raw[:, :width].isfinite()
    # The place of the last known step at or before each one.
    place = torch.where(known, torch.arange(width, device=raw.device), -1).cummax(1).values if width else known.long()
    found = raw[:, :width].gather(1, place.clamp(min=0))
    return torch.where(place >= 0, found, torch.zeros_like(found))


def _increments(potential: Tensor, steps: Steps) -> Tensor:
    """g [B,S]: the exponential of scaled increments less its mean over all present steps; 0 elsewhere."""
    out = torch.zeros_like(potential)
    if not bool(steps.present.any()):
        return out
    before = torch.nn.functional.pad(potential[:, :-1], (1, 0))
    first = steps.present & (steps.present.long().cumsum(1) == 1)
    change = torch.where(first, torch.zeros_like(potential), potential - before)[steps.present]
    if bool(change.max() > change.min()):
        grown = torch.exp((change - change.min()) / (change.max() - change.min()))
        out[steps.present] = grown - grown.mean()
    return out


def _said(potential: Tensor, settled: Tensor, steps: Steps) -> dict[str, Tensor]:
    rows = steps.present.any(dim=1).sum().clamp(min=1)
    after = (settled.long().cumsum(1) > 0) & ~(settled & (settled.long().cumsum(1) == 1))
    lost = settled.any(dim=1) & (potential[:, -1:] < 0).any(dim=1)
    return {
        "truegain/potential": (potential * steps.present).sum() / steps.present.sum().clamp(min=1),
        "truegain/checking_tokens": (steps.tokens * after).sum() / rows,
        "truegain/right_to_wrong": lost.sum() / rows,
    }
