from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from truegain.core.component import component
from truegain.core.errors import SettingError


@component(
    "weight",
    cite=("https://fengyao.notion.site/off-policy-rl", "verl rollout_is", "TRL vllm_importance_sampling_mode"),
)
def truncated_importance(
    old_logp: Float[Tensor, "B T"],
    engine_logp: Float[Tensor, "B T"],
    mask: Bool[Tensor, "B T"],
    *,
    level: Literal["token", "sequence"] = "token",
    beyond: Literal["truncate", "mask"] = "truncate",
    cap: float | None = 2.0,
    floor: float | None = None,
    log_ratio_bound: float = 20.0,
) -> tuple[Float[Tensor, "B T"], dict[str, Tensor]]:
    """The ratio of the learner's likelihood to the sampler's, kept within bounds: mends what the engine computes apart.

    ``w = exp(old_logp - engine_logp)`` at each token, or ``exp`` of its sum over the row at every token of the row
    (``level="sequence"``). ``beyond``: what happens to a w outside ``[floor, cap]``: it is set to the bound, or to 0.
    None is no bound; ``cap`` > 0, ``floor`` >= 0. Multiply it with a weight that sums; a KL penalty that is to stay
    whole (TRL, verl) needs a term of its own.

    TRL's ``token_truncate`` ... ``sequence_mask`` are ``level`` and ``beyond``, with cap 3. In verl ``rollout_is`` is
    the level, one threshold (2) truncates, and a pair masks (IcePop). ``log_ratio_bound`` clamps the log-ratio (verl's
    20; TRL has none). A token for which the engine reports NaN has w = 1, as in TRL. Logs the mean w.
    Raises SettingError for an unknown ``level`` or ``beyond``. Source: Yao et al. 2025.

    >>> import torch
    >>> old, engine = torch.tensor([[-1.0, -1.0]]), torch.tensor([[-1.5, -2.5]])
    >>> truncated_importance(old, engine, torch.ones(1, 2, dtype=torch.bool))[0].round(decimals=4)
    tensor([[1.6487, 2.0000]])
    """
    if level not in ("token", "sequence") or beyond not in ("truncate", "mask"):
        raise SettingError(f"truncated_importance: level={level!r}, beyond={beyond!r}; see its docstring")
    log_ratio = (old_logp - engine_logp).nan_to_num(nan=0.0).masked_fill(~mask, 0.0)
    if level == "sequence":
        log_ratio = log_ratio.sum(dim=1, keepdim=True).expand(mask.shape)
    ratio = log_ratio.clamp(-log_ratio_bound, log_ratio_bound).exp()
    bounded = ratio if cap is None and floor is None else ratio.clamp(min=floor, max=cap)
    if beyond == "mask":
        bounded = torch.where(bounded == ratio, ratio, 0.0)
    weight = bounded.masked_fill(~mask, 0.0)
    return weight, {"sampling/importance_sampling_ratio/mean": weight}
