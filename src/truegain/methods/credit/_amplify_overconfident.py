from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import softplus

from truegain.core.component import component
from truegain.core.errors import SettingError


@component("credit", cite="arXiv:2602.21420")
def amplify_overconfident(
    advantage: Float[Tensor, "B T"],
    correct: Float[Tensor, "B"],
    old_logp: Float[Tensor, "B T"],
    ref_logp: Float[Tensor, "B T"],
    mask: Bool[Tensor, "B T"],
    *,
    alpha: float = 1.0,
    shape: Literal["relu", "softplus"] = "relu",
    level: Literal["sum", "mean"] = "sum",
    bound: float | None = None,
) -> tuple[Float[Tensor, "B T"], dict[str, Tensor]]:
    """Punish a wrong row the more, the likelier training has made it: a modifier of the credit before it.

    ``c_i = sum_t (old_logp - ref_logp)`` is how far the row's log-prob has risen above the reference, in nats, and

        A' = A (1 + alpha phi(c))  where the row is wrong and A < 0,   A' = A elsewhere

    so that errors which training has reinforced (c > 0) are pushed back harder, and right rows and errors that the
    policy already leaves (c < 0) stay as they were. ``shape`` is phi: ``relu(c)``, or ``softplus(c)``, which is 0.69
    at c = 0. ``level="mean"`` divides c by the row's tokens. ``bound`` clamps c to [-bound, bound]: the sum over a long
    row can be tens of nats. ``alpha`` >= 0: 0 changes nothing, the sources name 0.5 to 2.

    A row is wrong unless ``correct`` > 0.5. The sign of A never changes, and nothing is normalised afterwards. A row
    without tokens has c = 0. A NaN log-prob gives a NaN advantage, which the loop refuses. Logs
    ``truegain/overconfident``, the share of rows that are wrong with c > 0.

    Raises SettingError for knobs out of bounds. Source: ACE 2026; the abstract fixes neither phi, nor alpha, nor
    whether c is bounded or divided by the length, nor which policy it compares with the reference.

    >>> import torch
    >>> half, risen = torch.full((3, 1), -0.5), torch.tensor([[2.0], [0.0], [-2.0]])
    >>> wrong, one = torch.zeros(3), torch.ones(3, 1, dtype=torch.bool)
    >>> amplify_overconfident(half, wrong, risen, torch.zeros(3, 1), one)[0].flatten()
    tensor([-1.5000, -0.5000, -0.5000])
    """
    legal = alpha >= 0 and shape in ("relu", "softplus") and level in ("sum", "mean") and (bound is None or bound > 0)
    if not legal:
        raise SettingError(
            f"amplify_overconfident: alpha={alpha} must be 0 or more, bound={bound} above 0 or None, shape={shape!r} "
            f"relu or softplus, level={level!r} sum or mean"
        )
    risen = (old_logp - ref_logp).masked_fill(~mask, 0.0).sum(dim=1)
    if level == "mean":
        risen = risen / mask.sum(dim=1).clamp(min=1)
    if bound is not None:
        risen = risen.clamp(-bound, bound)
    wrong = ~(correct > 0.5)
    gain = 1 + alpha * (softplus(risen) if shape == "softplus" else risen.clamp(min=0))
    felt = wrong[:, None] & (advantage < 0)
    out = torch.where(felt, advantage * gain[:, None], advantage).masked_fill(~mask, 0.0)
    return out, {"truegain/overconfident": (wrong & (risen > 0)).to(out.dtype)}
