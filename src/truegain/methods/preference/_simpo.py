"""SimPO: the chosen completion's mean log-prob beats the rejected one's by a margin, without a reference."""

from __future__ import annotations

from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import softplus

from truegain.core.component import component


@component("pair", cite=("arXiv:2405.14734", "princeton-nlp/SimPO scripts/simpo_trainer.py"))
def simpo(
    chosen_logp: Float[Tensor, "N T"],
    chosen_mask: Bool[Tensor, "N T"],
    rejected_logp: Float[Tensor, "N R"],
    rejected_mask: Bool[Tensor, "N R"],
    *,
    beta: float = 2.5,
    ratio: float = 0.55,
    smoothing: float = 0.0,
) -> tuple[Float[Tensor, "N"], dict[str, Tensor]]:
    """Negative log-likelihood of the preference, by mean log-probs per token: length as such earns nothing.

    With ``d = beta (pbar_w - pbar_l - ratio)``, pbar a completion's mean token log-prob:
    ``-(1 - e) log sigmoid(d) - e log sigmoid(-d)``, ``e`` the ``smoothing``. A completion without a token has the mean
    0. TRL's ``simpo_gamma`` is ``beta * ratio``.

    Args:
        beta: how sharply a difference in nats per token counts; above 0.
        ratio: the margin in nats per token; 0 or more.
        smoothing: the share of labels taken to be flipped, in [0, 0.5).

    Logs ``rewards/accuracies`` and ``rewards/margins``, both of pbar times beta. Raises ValueError for knobs out of
    bounds.

    >>> import torch
    >>> mask = torch.ones(1, 2, dtype=torch.bool)
    >>> simpo(torch.tensor([[-0.4, -0.6]]), mask, torch.tensor([[-0.8, -0.8]]), mask)[0]
    tensor([1.0537])
    """
    if not beta > 0 or ratio < 0 or not 0 <= smoothing < 0.5:
        raise ValueError(
            f"simpo: beta {beta} must be above 0, ratio {ratio} 0 or more, smoothing {smoothing} in [0, 0.5)"
        )
    chosen, rejected = _mean(chosen_logp, chosen_mask), _mean(rejected_logp, rejected_mask)
    ahead = beta * (chosen - rejected)
    loss = (1 - smoothing) * softplus(beta * ratio - ahead) + smoothing * softplus(ahead - beta * ratio)
    won = (ahead > 0).to(ahead.dtype) + 0.5 * (ahead == 0).to(ahead.dtype)
    return loss, {"rewards/margins": ahead.detach(), "rewards/accuracies": won.detach()}


def _mean(logp: Tensor, mask: Tensor) -> Tensor:
    return logp.masked_fill(~mask, 0.0).sum(dim=1) / mask.sum(dim=1).clamp(min=1)
