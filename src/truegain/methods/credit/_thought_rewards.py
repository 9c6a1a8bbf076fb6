from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from truegain.core import segments
from truegain.core.component import component
from truegain.core.errors import SettingError
from truegain.methods.credit._steps import Steps, steps_of, to_go


@component("credit", cite="arXiv:2507.23317")
def thought_rewards(
    step_reward: Float[Tensor, "B S"],
    correct: Float[Tensor, "B"],
    group: Int[Tensor, "B"],
    step: Int[Tensor, "B T"],
    mask: Bool[Tensor, "B T"],
    *,
    right: float = 0.5,
    wrong: float = 0.5,
    power: float = 1.0,
    spread: Literal["own", "to_go"] = "own",
) -> Float[Tensor, "B T"]:
    """Pay for whole thoughts, as much as the model's skill on the problem allows; to stand beside an outcome credit.

    A judge's ``step_reward`` labels a step right (> 0), wrong (< 0) or not at all (0 or NaN). A thought is a run of
    neighbouring steps with one label. With acc the mean of ``correct`` over the row's group:

        a right thought    right * acc ** power
        a wrong thought    -wrong if the row's answer is wrong and acc > 0, else 0: to explore is no fault
        no label           0

    So a group without a right answer, and one that no judge labelled, have the outcome alone. All tokens of a thought
    get its reward (``spread="own"``) or the sum of its own and all later thoughts' of the row (``"to_go"``).
    ``right`` and ``wrong`` >= 0, in units of a standardised outcome; ``power`` > 0. A row counts as right from
    ``correct`` 0.5 on. Steps without a policy token are skipped.

    Raises SettingError for knobs out of bounds. Source: He et al. 2025 (TP-GRPO); its constants are not published.

    >>> import torch
    >>> judged, step = torch.tensor([[1.0, 1.0, -1.0, 1.0], [1.0] * 4]), torch.arange(4).expand(2, 4)
    >>> ends = torch.tensor([0.0, 1.0])
    >>> thought_rewards(judged, ends, torch.zeros(2, dtype=torch.long), step, step >= 0, right=1.0)
    tensor([[ 0.5000,  0.5000, -0.5000,  0.5000],
            [ 0.5000,  0.5000,  0.5000,  0.5000]])
    """
    if min(right, wrong) < 0 or power <= 0 or spread not in ("own", "to_go"):
        raise SettingError(
            f"thought_rewards: right={right} and wrong={wrong} must be 0 or more, power={power} above 0, "
            f"spread={spread!r} own or to_go"
        )
    steps = steps_of(step, mask, step_reward.dtype, step_reward.shape[1])
    label, begins = thoughts(step_reward, steps)
    skill = segments.spread(segments.mean(correct, group), group)[:, None]
    gain = right * skill**power
    loss = wrong * ((correct[:, None] < 0.5) & (skill > 0)).to(skill.dtype)
    value = torch.where(label > 0, gain, torch.where(label < 0, -loss, torch.zeros_like(gain)))
    if spread == "to_go":
        # A thought counts once, at its first step; its later steps have what the first one has.
        later = to_go(torch.where(begins, value, torch.zeros_like(value)), steps, 1.0)
        value = later + torch.where(begins | ~steps.present, torch.zeros_like(value), value)
    return steps.to_tokens(value)


def thoughts(judged: Tensor, steps: Steps) -> tuple[Tensor, Tensor]:
    """The label of each step, -1, 0 or 1 [B,S], and whether a thought begins there: the label differs from the step
    before it, or there is none."""
    width = steps.present.shape[1]
    if judged.shape[1] < width:
        judged = torch.nn.functional.pad(judged, (0, width - judged.shape[1]), value=0.0)
    label = torch.where(steps.present, judged[:, :width].nan_to_num(0.0).sign(), torch.zeros_like(judged[:, :width]))
    begins = torch.zeros_like(steps.present)
    last = torch.full((label.shape[0],), 2.0, dtype=label.dtype, device=label.device)
    for s in range(width):
        here = steps.present[:, s]
        begins[:, s] = here & (label[:, s] != last)
        last = torch.where(here, label[:, s], last)
    return label, begins
