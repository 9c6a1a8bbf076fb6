from __future__ import annotations

from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import softplus

from truegain.core.component import component
from truegain.methods.reward._log_ratio import log_ratio


@component("surrogate", cite=("arXiv:2412.01981", "PRIME-RL/ImplicitPRM ce_trainer.py"))
def outcome_cross_entropy(
    logp: Float[Tensor, "B T"],
    ref_logp: Float[Tensor, "B T"],
    mask: Bool[Tensor, "B T"],
    correct: Float[Tensor, "B"],
    *,
    beta: float = 0.05,
) -> tuple[Float[Tensor, "B T"], dict[str, Tensor]]:
    """Cross-entropy of the verdict, where a completion's reward is its log-ratio to the reference.

        r = beta * sum_t (logp_t - ref_logp_t)        L = -l log sigmoid(r) - (1 - l) log sigmoid(-r)

    The row's loss stands at each of its tokens: summed by `sequence_mean` it is the mean over rows. l is ``correct``,
    in [0, 1]: one completion per prompt is enough. An untrained model costs log 2. A NaN at a token makes its row NaN,
    which the loop refuses; a row without a token has no loss.

    ``beta``, above 0: units of reward per nat. Logs ``rewards/accuracies``, the share of rows whose reward has the sign
    of the verdict (ties half), and ``rewards/mean``. Raises SettingError for a beta that is not above 0.
    Source: Yuan et al. 2024, equation 5.

    >>> import torch
    >>> logp, ref = torch.tensor([[-1.0, -0.6]]), torch.tensor([[-1.2, -0.7]])
    >>> outcome_cross_entropy(logp, ref, logp < 0, torch.tensor([1.0]))[0]
    tensor([[0.6857, 0.6857]])
    """
    reward = log_ratio(logp, ref_logp, mask, beta, "outcome_cross_entropy").sum(dim=1)
    loss = correct * softplus(-reward) + (1 - correct) * softplus(reward)
    sign = ((reward > 0) == (correct > 0.5)).to(reward.dtype).masked_fill(reward == 0, 0.5)
    return loss[:, None].expand_as(logp), {"rewards/accuracies": sign.detach(), "rewards/mean": reward.detach()}
