from __future__ import annotations

from itertools import pairwise

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from truegain.core.component import component
from truegain.core.errors import SettingError
from truegain.methods.length._gated import lengths, squashed


@component("reward", cite=("arXiv:2602.12113", "github.com/ZeweiYu1/ARLCP"))
def reflection_and_length(
    correct: Float[Tensor, "B"],
    reflections: Float[Tensor, "B"],
    group: Int[Tensor, "B"],
    mask: Bool[Tensor, "B T"],
    *,
    bounds: tuple[float, ...] = (40.0, 80.0),
    weights: tuple[float, ...] = (0.05, 0.1, 0.15),
    total: float = 0.2,
    ddof: int = 1,
    eps: float = 1e-6,
) -> Float[Tensor, "B"]:
    """Right answers pay for reflecting more, and for being longer, than their group's other right ones.

        -(w1_i * sigmoid(z(n_i)) + (total - w1_i) * sigmoid(z(l_i)))    for a right row, else 0

    with n the row's ``reflections``, l its length up to the last policy token, and z over the group's right rows. The
    row's own n says how complex it found the problem and which of the two counts more: w1 is ``weights[c]`` with c the
    number of ``bounds`` below n, so that a row of many reflections pays for those and hardly for its length. Added to
    an outcome of 1 and 0, a right row has between ``1 - total`` and 1; one alone ``1 - total / 2``.

    ``weights`` (units of reward, one more than ``bounds``, none above ``total``) and ``bounds`` (reflections, rising).
    The published bounds are for traces of ten thousand tokens. ``ddof`` 1 is the sample's deviation, as the source
    has it, 0 the population's. Raises SettingError for knobs that do not fit.
    Source: Yu et al. 2026 (ARLCP), section 3 and its published reward.

    >>> import torch
    >>> right, said = torch.tensor([1.0, 1.0, 1.0, 0.0]), torch.tensor([10.0, 50.0, 90.0, 20.0])
    >>> mask = torch.arange(50) < torch.tensor([10, 30, 50, 20])[:, None]
    >>> 1 + reflection_and_length(right, said, torch.zeros(4, dtype=torch.long), mask)[:3]
    tensor([0.9462, 0.9000, 0.8538])
    """
    rising = all(a < b for a, b in pairwise(bounds))
    if len(weights) != len(bounds) + 1 or not rising or not all(0 <= w <= total for w in weights):
        raise SettingError(
            f"reflection_and_length: weights={weights} must be one more than bounds={bounds}, which rise, and each "
            f"from 0 to total={total}"
        )
    right = correct >= 0.5
    kind = sum((reflections > bound).long() for bound in bounds) + torch.zeros_like(group)
    own = torch.tensor(weights, dtype=torch.float64, device=group.device)[kind]
    reflect = squashed(reflections, right, group, ddof, eps)
    return -(own * reflect + (total - own) * squashed(lengths(mask), right, group, ddof, eps)).to(correct.dtype)
