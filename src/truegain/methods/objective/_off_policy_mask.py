from __future__ import annotations

from jaxtyping import Bool, Float
from torch import Tensor

from truegain.core.component import component


@component("weight", cite=("arXiv:2512.02556", "TRL get_off_policy_mask"))
def off_policy_mask(
    old_logp: Float[Tensor, "B T"],
    engine_logp: Float[Tensor, "B T"],
    advantage: Float[Tensor, "B T"],
    mask: Bool[Tensor, "B T"],
    *,
    delta: float = 0.5,
) -> tuple[Float[Tensor, "B T"], dict[str, Tensor]]:
    """1 where the advantage is not negative or the row is near the sampler's policy, else 0.

    Near: ``mean_t(engine_logp - old_logp) <= delta``, in nats, over the row's tokens; ``delta`` > 0. What the sampler
    wrote and the learner would hardly write teaches little by being punished. A token for which the engine reports NaN
    counts as no distance. Multiply it with a weight that sums; a KL penalty that is to stay whole (TRL, verl) needs a
    term of its own. Logs the share of tokens kept.

    TRL compares with the current policy inside the surrogate; a weight is made once per optimiser step, and the policy
    before the update stands for it. Source: DeepSeek-V3.2, equation 9.

    >>> import torch
    >>> old, engine = torch.full((2, 1), -2.0), torch.full((2, 1), -1.0)
    >>> sign, whole = torch.tensor([[1.0], [-1.0]]), torch.ones(2, 1, dtype=torch.bool)
    >>> off_policy_mask(old, engine, sign, whole)[0].flatten()
    tensor([1., 0.])
    """
    distance = (engine_logp - old_logp).nan_to_num(nan=0.0).masked_fill(~mask, 0.0)
    far = distance.sum(dim=1, keepdim=True) / mask.sum(dim=1, keepdim=True).clamp(min=1) > delta
    kept = (mask & ~(far & (advantage < 0))).to(old_logp.dtype)
    return kept, {"truegain/off_policy_kept": kept}
