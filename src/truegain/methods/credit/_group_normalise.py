from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from truegain.core import segments
from truegain.core.component import component
from truegain.core.errors import SettingError
from truegain.methods.credit._shared import centred_within, over_tokens


@component(
    "credit",
    cite=("arXiv:2402.03300", "arXiv:2503.20783", "verl compute_grpo_outcome_advantage", "TRL GRPOTrainer"),
)
def group_normalise(
    reward: Float[Tensor, "B"],
    group: Int[Tensor, "B"],
    mask: Bool[Tensor, "B T"],
    *,
    mean: Literal["group", "batch"] = "group",
    std: Literal["group", "batch", "centred", "none"] = "group",
    ddof: int = 1,
    eps: float = 1e-6,
    singleton: Literal["zero", "raw"] = "zero",
    bound: float | None = None,
) -> Float[Tensor, "B T"]:
    """Rewards minus a mean over a deviation, the same advantage for every token of a row.

    ``A_i = (r_i - mean) / (std + eps)``, statistics over rows. Rows without a token count in them and get nothing.

    | system | mean | std |
    |---|---|---|
    | GRPO | group | group |
    | Dr. GRPO; TRL ``scale_rewards="none"``; verl ``norm_adv_by_std_in_grpo=False`` | group | none |
    | Lite PPO; TRL ``scale_rewards="batch"`` | group | batch: of the rewards as they are |
    | DLER, SeeUPO (``bound=3``) | group | centred: over the batch, of the rewards minus their mean |
    | one baseline for all prompts | batch | batch |

    Without a mean: `return_to_go`, then `whiten` with ``per="row", mean="scale"``. Statistics that count tokens instead
    of rows (REINFORCE++-baseline): ``std="none"``, then `whiten`.

    ``ddof``: 1 is the sample deviation (TRL, verl), 0 the population's. ``eps`` >= 0: verl 1e-6, TRL 1e-4.
    ``singleton``: what a group of one row gets where its own statistics are asked for: 0 (TRL), or its raw reward, its
    mean taken as 0 and its deviation as 1 (verl). ``bound`` clamps A to [-bound, bound].
    Rewards that are equal over the scope of the mean give exactly 0, and under ``std="group"`` so does a group of equal
    rewards. A NaN reward makes its group NaN (the batch, with a statistic over the batch), which the loop refuses.

    Raises SettingError for an unknown ``mean``, ``std`` or ``singleton``.
    Source: Shao et al. 2024, equation 3's advantage; Liu et al. 2025 without the deviation; the other knobs are where
    TRL 1.16 and verl 0.9 differ.

    >>> import torch
    >>> scores, one = torch.tensor([1.0, 0.0, 0.0, 0.0]), torch.ones(4, 1, dtype=torch.bool)
    >>> group_normalise(scores, torch.zeros(4, dtype=torch.long), one).flatten().round(decimals=3).tolist()
    [1.5, -0.5, -0.5, -0.5]
    """
    legal = mean in ("group", "batch") and std in ("group", "batch", "centred", "none") and singleton in ("zero", "raw")
    if not legal:
        raise SettingError(
            f"group_normalise: mean={mean!r}, std={std!r}, singleton={singleton!r}; see its docstring for the choices"
        )
    whole = torch.zeros_like(group)
    size = segments.spread(segments.total(torch.ones_like(reward), group), group)
    alone = (size == 1) & (mean == "group" or std == "group")
    centred = centred_within(reward, group if mean == "group" else whole)
    if singleton == "raw" and mean == "group":
        centred = torch.where(alone, reward, centred)
    if std == "group":
        own = centred_within(reward, group)
        deviation = (segments.spread(segments.total(own**2, group), group) / (size - ddof).clamp(min=1)).sqrt()
        if singleton == "raw":
            deviation = torch.where(alone, torch.ones_like(deviation), deviation)
        # Without a deviation there is nothing to tell rows apart by; eps would blow up their distance to another mean.
        centred = torch.where(deviation == 0, torch.zeros_like(centred), centred) / (deviation + eps)
    elif std != "none":
        own = centred_within(reward if std == "batch" else centred, whole)
        deviation = ((own**2).sum() / max(reward.numel() - ddof, 1)).sqrt()
        centred = centred / (deviation + eps)
    if singleton == "zero":
        centred = torch.where(alone & ~centred.isnan(), torch.zeros_like(centred), centred)
    if bound is not None:
        centred = centred.clamp(-bound, bound)
    return over_tokens(centred, mask)
