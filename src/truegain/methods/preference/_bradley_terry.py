"""Bradley-Terry: the chosen completion's reward beats the rejected one's."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import softplus

from truegain.core.component import component


@component("pair", cite=("Bradley and Terry 1952", "arXiv:2312.09244", "trl 1.8 RewardTrainer.compute_loss"))
def bradley_terry(
    chosen_reward: Float[Tensor, "N"],
    rejected_reward: Float[Tensor, "N"],
    *,
    margin: float = 0.0,
    centring: float = 0.0,
    smoothing: float = 0.0,
) -> Float[Tensor, "N"]:
    """Negative log-likelihood that the chosen completion beats the rejected one, given their scalar rewards.

    With ``d = r_w - r_l - margin``: ``-(1 - e) log sigmoid(d) - e log sigmoid(-d) + c (r_w + r_l)^2``, ``e`` the
    ``smoothing`` and ``c`` the ``centring``. Only differences of rewards are identified; centring (0.01 in
    arXiv:2312.09244) fixes the level near 0. A reward that is NaN gives that pair's loss NaN, and the loop refuses it.

    Args:
        margin: by how much a win must be clear, in units of reward; 0 or more.
        centring: weight of the squared sum, 0 or more; 0 leaves the level free.
        smoothing: the share of labels taken to be flipped, in [0, 0.5).

    Raises ValueError for a smoothing outside [0, 0.5) or a negative centring.

    >>> import torch
    >>> bradley_terry(torch.tensor([1.0, 0.2]), torch.tensor([0.0, 0.5])).mean()
    tensor(0.5838)
    """
    if not 0 <= smoothing < 0.5 or centring < 0:
        raise ValueError(
            f"bradley_terry: smoothing {smoothing} must lie in [0, 0.5), centring {centring} at 0 or above"
        )
    ahead = chosen_reward - rejected_reward - margin
    loss = (1 - smoothing) * softplus(-ahead) + smoothing * softplus(ahead)
    return loss + centring * (chosen_reward + rejected_reward) ** 2
