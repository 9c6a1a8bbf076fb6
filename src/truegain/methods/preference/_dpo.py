"""DPO: the chosen completion's log-ratio to a reference beats the rejected one's."""

from __future__ import annotations

from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import softplus

from truegain.core.component import component


@component("pair", cite=("arXiv:2305.18290", "trl 1.16 DPOTrainer, loss_type sigmoid"))
def dpo(
    chosen_logp: Float[Tensor, "N T"],
    chosen_ref_logp: Float[Tensor, "N T"],
    chosen_mask: Bool[Tensor, "N T"],
    rejected_logp: Float[Tensor, "N R"],
    rejected_ref_logp: Float[Tensor, "N R"],
    rejected_mask: Bool[Tensor, "N R"],
    *,
    beta: float = 0.1,
    smoothing: float = 0.0,
) -> tuple[Float[Tensor, "N"], dict[str, Tensor]]:
    """Negative log-likelihood of the preference, where a completion's reward is its log-ratio to the reference.

    With ``r(y) = beta sum_t (logp_t - ref_logp_t)`` and ``d = r(y_w) - r(y_l)``: ``-(1 - e) log sigmoid(d) -
    e log sigmoid(-d)``, e the ``smoothing``. Log-probs are summed, not averaged. A completion without a token has the
    reward 0; a NaN at a token makes its pair's loss NaN, which the loop refuses.

    Args:
        beta: units of reward per nat; above 0. The trained model's reward is read with the same beta.
        smoothing: the share of labels taken to be flipped, in [0, 0.5).

    Logs ``rewards/chosen``, ``rewards/rejected``, ``rewards/margins`` and ``rewards/accuracies`` (ties half). Raises
    ValueError for knobs out of bounds. Source: Rafailov et al. 2023, equation 7; smoothing as in conservative DPO.

    >>> import torch
    >>> one = torch.ones(1, 1, dtype=torch.bool)
    >>> logp, ref = torch.tensor([[-10.0], [-12.0]]), torch.tensor([[-11.0], [-11.5]])
    >>> dpo(logp[:1], ref[:1], one, logp[1:], ref[1:], one)[0]
    tensor([0.6210])
    """
    if not beta > 0 or not 0 <= smoothing < 0.5:
        raise ValueError(f"dpo: beta {beta} must be above 0, smoothing {smoothing} in [0, 0.5)")
    chosen = beta * (chosen_logp - chosen_ref_logp).masked_fill(~chosen_mask, 0.0).sum(dim=1)
    rejected = beta * (rejected_logp - rejected_ref_logp).masked_fill(~rejected_mask, 0.0).sum(dim=1)
    ahead = chosen - rejected
    loss = (1 - smoothing) * softplus(-ahead) + smoothing * softplus(ahead)
    won = (ahead > 0).to(ahead.dtype) + 0.5 * (ahead == 0).to(ahead.dtype)
    told = {"chosen": chosen, "rejected": rejected, "margins": ahead, "accuracies": won}
    return loss, {f"rewards/{name}": value.detach() for name, value in told.items()}
